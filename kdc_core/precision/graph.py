"""Which nodes of an exported graph are the network, and which decode its fields.

Only the network may lose precision: a keypoint's place is a sum of hundreds of pixels and fractions of one, which
half precision cannot hold.
"""

from __future__ import annotations

from typing import Any


def network_nodes(model: Any) -> set[str]:
    """Names of the nodes up to the network's last convolutions, of an `onnx.ModelProto`.

    Decoding begins with the sigmoid of the heatmap; the convolution that smooths the probabilities is not the
    network's. Raises ValueError for a graph without convolutions or with nameless nodes.
    """
    if any(not node.name for node in model.graph.node):
        raise ValueError("the graph has nodes without a name; export it again with `kdc export`")
    maker = {output: node for node in model.graph.node for output in node.output}
    after_sigmoid: set[str] = set()
    for node in model.graph.node:  # in topological order, as ONNX demands
        if node.op_type == "Sigmoid" or any(i in maker and maker[i].name in after_sigmoid for i in node.input):
            after_sigmoid.add(node.name)
    pending = [n for n in model.graph.node if n.op_type == "Conv" and n.name not in after_sigmoid]
    if not pending:
        raise ValueError("the graph has no convolution: it holds no network")
    found: set[str] = set()
    while pending:
        node = pending.pop()
        if node.name not in found:
            found.add(node.name)
            pending += [maker[i] for i in node.input if i in maker]
    return found


def last_convolutions(model: Any) -> list[str]:
    """Names of the network's convolutions that no other of its nodes reads: those that give the fields."""
    network = network_nodes(model)
    read = {i for node in model.graph.node if node.name in network for i in node.input}
    return [
        n.name
        for n in model.graph.node
        if n.name in network and n.op_type == "Conv" and not any(o in read for o in n.output)
    ]
