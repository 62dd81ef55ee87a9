"""The network of a graph in half precision; its input, its outputs and the decoding stay as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kdc_core.precision.graph import network_nodes

LARGEST_HALF = float(np.finfo(np.float16).max)
# Inputs that ONNX wants in float32 whatever the data are: Resize's region of interest and scales.
_ALWAYS_FLOAT = {"Resize": (1, 2)}


def to_half(model: Any) -> Any:
    """Half-precision twin of an `onnx.ModelProto`, as a new one.

    Explicitly typed: wherever values enter or leave the network there is a Cast, so that a strongly typed runtime
    computes just these nodes in half precision. Raises ValueError for weights that half precision cannot hold.
    """
    import onnx

    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    _HalfConversion(twin, onnx).run()
    onnx.checker.check_model(twin)
    return twin


def half_file(model: Path, out: Path) -> Path:
    """Write the half-precision twin of a model file. Returns `out`."""
    import onnx

    onnx.save(to_half(onnx.load(str(model))), str(out))
    return out


class _HalfConversion:
    def __init__(self, model: Any, onnx: Any) -> None:
        self._onnx = onnx
        self._graph = model.graph
        self._network = network_nodes(model)
        self._weights = {w.name: w for w in model.graph.initializer}
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = (*inferred.value_info, *inferred.input, *inferred.output)
        self._kinds = {v.name: v.type.tensor_type.elem_type for v in values}
        self._kinds.update({w.name: w.data_type for w in model.graph.initializer})
        made = {o for node in self._graph.node if node.name in self._network for o in node.output}
        self._made_in_half = {name for name in made if self._kinds.get(name) == onnx.TensorProto.FLOAT}
        # Half-precision names of values: weights, made in the network, or cast on entering it.
        self._half_of: dict[str, str] = {}
        self._float_again: set[str] = set()

    def run(self) -> None:
        proto = self._onnx.TensorProto
        nodes: list[Any] = []
        for node in self._graph.node:
            if node.name in self._network:
                nodes += self._into_half(node)
                for attribute in node.attribute:
                    if node.op_type == "Cast" and attribute.name == "to" and attribute.i == proto.FLOAT:
                        attribute.i = proto.FLOAT16
                for index, name in enumerate(node.output):
                    if name in self._made_in_half:
                        node.output[index] = self._half_of[name] = f"{name}_half"
            else:
                nodes += self._out_of_half(node)
            nodes.append(node)
        for output in self._graph.output:
            nodes += self._float_cast(output.name)
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        self._drop_unused_weights()
        # What was known of the old values' types no longer holds.
        del self._graph.value_info[:]

    def _into_half(self, node: Any) -> list[Any]:
        """Make a network node read half precision; the casts that this takes."""
        casts = []
        for index, name in enumerate(node.input):
            stays = index in _ALWAYS_FLOAT.get(node.op_type, ())
            if stays or self._kinds.get(name) != self._onnx.TensorProto.FLOAT or node.op_type == "Cast":
                continue
            if name not in self._half_of:
                self._half_of[name] = f"{name}_half"
                if name in self._weights:
                    self._graph.initializer.append(self._half_weight(name))
                else:
                    casts.append(self._cast(name, self._half_of[name], self._onnx.TensorProto.FLOAT16))
            node.input[index] = self._half_of[name]
        return casts

    def _out_of_half(self, node: Any) -> list[Any]:
        return [cast for name in node.input for cast in self._float_cast(name)]

    def _float_cast(self, name: str) -> list[Any]:
        """The cast that gives a network's value its old name and type back, the first time it is asked for."""
        if name not in self._made_in_half or name in self._float_again:
            return []
        self._float_again.add(name)
        return [self._cast(self._half_of[name], name, self._onnx.TensorProto.FLOAT)]

    def _cast(self, source: str, target: str, kind: int) -> Any:
        return self._onnx.helper.make_node("Cast", [source], [target], name=f"cast_to_{target}", to=kind)

    def _half_weight(self, name: str) -> Any:
        values = self._onnx.numpy_helper.to_array(self._weights[name])
        if np.abs(values).max(initial=0.0) > LARGEST_HALF:
            raise ValueError(f"the weights '{name}' go beyond half precision's {LARGEST_HALF:g}")
        return self._onnx.numpy_helper.from_array(values.astype(np.float16), self._half_of[name])

    def _drop_unused_weights(self) -> None:
        used = {i for node in self._graph.node for i in node.input}
        kept = [w for w in self._graph.initializer if w.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
