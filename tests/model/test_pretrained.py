"""Published weights: read from files, and put where they mean the same."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d

from kdc_core.skeleton import DIRECTED_EDGES, KEYPOINT_INDEX, NUM_KEYPOINTS
from kdc_model.checkpoint import CheckpointError, load_checkpoint
from kdc_model.network import FieldTensors, KDCNet, NetworkConfig
from kdc_model.pretrained import initialise, load_weights
from kdc_model.train import Trainer
from tests.model.movenet_graph import PREFIX, made_weights, published_pyramid, write_graph

# The published order of the displacement head, as its makers give it (parent, child).
PUBLISHED_EDGES = [
    ("nose", "left_eye"),
    ("left_eye", "left_ear"),
    ("nose", "right_eye"),
    ("right_eye", "right_ear"),
    ("nose", "left_shoulder"),
    ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"),
    ("left_shoulder", "left_hip"),
    ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"),
    ("nose", "right_shoulder"),
    ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"),
    ("right_shoulder", "right_hip"),
    ("right_hip", "right_knee"),
    ("right_knee", "right_ankle"),
]
SHIFT = 2.5  # our cells' nominal centres lie 2.5 pixels before those that the published offsets start from
TORSO = [KEYPOINT_INDEX[n] for n in ("left_shoulder", "right_shoulder", "left_hip", "right_hip")]


def network_of(mask_mode: str = "embedding", trunk: str = "mobilenet_v1_075") -> KDCNet:
    """At the coarse heads' stride, with the fine ones silenced: the fields are the coarse heads' own."""
    torch.manual_seed(0)
    config = NetworkConfig(trunk=trunk, stride=16, channels=8, head_units=0, mask_mode=mask_mode)
    network = KDCNet(config).eval()
    with torch.no_grad():
        for head in (network.pose, network.seg):
            head.fine.weight.zero_()
            head.fine.bias.zero_()
    return network


def check_fields(network: KDCNet, weights: dict[str, torch.Tensor], images: torch.Tensor) -> FieldTensors:
    """Compare the network's fields with the published heads applied to its features."""
    with torch.no_grad():
        fields = network(images)
        deep = network.trunk((images - 127.5) / 127.5)[-1]

        def head(name: str) -> torch.Tensor:
            return conv2d(deep, weights[f"head_{name}.weight"], weights[f"head_{name}.bias"])

        short, middle = head("short"), head("mid")
        torch.testing.assert_close(fields.heatmap, head("heatmap"), rtol=1e-4, atol=1e-3)
        for k in range(NUM_KEYPOINTS):  # all dy, then all dx
            torch.testing.assert_close(fields.offset[:, k, 1], short[:, k] + SHIFT, rtol=1e-4, atol=1e-2)
            torch.testing.assert_close(fields.offset[:, k, 0], short[:, 17 + k] + SHIFT, rtol=1e-4, atol=1e-2)
        for number, (parent, child) in enumerate(PUBLISHED_EDGES):
            a, b = KEYPOINT_INDEX[parent], KEYPOINT_INDEX[child]
            for pair, dy, dx in (((a, b), number, 16 + number), ((b, a), 32 + number, 48 + number)):
                ours = fields.displacement[:, DIRECTED_EDGES.index(pair)]
                torch.testing.assert_close(ours[:, 0], middle[:, dx] + SHIFT, rtol=1e-4, atol=1e-2)
                torch.testing.assert_close(ours[:, 1], middle[:, dy] + SHIFT, rtol=1e-4, atol=1e-2)
        if "head_person.weight" in weights:
            torch.testing.assert_close(fields.person, head("person")[:, 0], rtol=1e-4, atol=1e-3)
            long = head("long")
            to_xy = torch.stack([long[:, 17:], long[:, :17]], dim=2) + SHIFT
            if network.config.mask_mode == "bank":
                expected = to_xy.flatten(1, 2)
            else:
                expected = to_xy[:, TORSO].mean(1)
            torch.testing.assert_close(fields.embedding, expected, rtol=1e-4, atol=1e-2)
    return fields


def published_like(network: KDCNet, person: bool = True) -> dict[str, np.ndarray]:
    """Made weights in the published layout."""
    rng = np.random.default_rng(0)
    state = {k: v.numpy() for k, v in network.trunk.state_dict().items()}
    sizes = {"heatmap": 17, "short": 34, "mid": 64, **({"person": 1, "long": 34} if person else {})}
    for name, count in sizes.items():
        state[f"head_{name}.weight"] = rng.normal(0, 1, (count, 384, 1, 1)).astype(np.float32)
        state[f"head_{name}.bias"] = rng.normal(0, 5, count).astype(np.float32)
    return {k: v.astype(np.float16) if v.ndim == 4 else v for k, v in state.items()}


@pytest.mark.parametrize("mask_mode", ["embedding", "static", "bank"])
@pytest.mark.parametrize("person", [True, False])
def test_published_heads_become_the_coarse_heads(tmp_path, mask_mode, person):
    path = tmp_path / "made.npz"
    np.savez(path, **published_like(network_of(), person))
    network = network_of(mask_mode)
    before = network.seg.coarse.weight.clone()
    initialise(network, path)
    check_fields(network, load_weights(path), torch.rand(1, 3, 64, 96) * 255)
    # Without its heads SegNet stays as it was.
    assert torch.equal(before, network.seg.coarse.weight) != person
    assert network.seg.coarse.bias[-1] == 3.0  # nothing published says how wide a person is


@pytest.mark.parametrize(
    ("file", "trunk"),
    [
        ("bodypix_mobilenet_v1_075.npz", "mobilenet_v1_075"),
        ("bodypix_mobilenet_v1_100.npz", "mobilenet_v1_100"),
    ],
)
def test_bodypix_sees_a_person_from_the_first_step(backbones, file, trunk):
    data = pytest.importorskip("skimage.data", reason="the photo comes with scikit-image")
    photo = torch.from_numpy(cv2.resize(data.astronaut(), (320, 320), interpolation=cv2.INTER_AREA))
    network = network_of(trunk=trunk)
    path = backbones / file
    initialise(network, path)
    fields = check_fields(network, load_weights(path), photo.permute(2, 0, 1)[None].float())
    # Her nose lies at (222, 115) of 512: found in that cell, and by its offset to a few pixels.
    nose = fields.heatmap[0, 0]
    assert nose.max().sigmoid() > 0.8
    row, col = np.unravel_index(int(nose.argmax()), nose.shape)
    found = np.array([col, row]) * 16 + 7.5 + fields.offset[0, 0, :, row, col].numpy()
    assert np.abs(found - np.array([222, 115]) * 320 / 512).max() < 6
    person = fields.person[0].sigmoid() > 0.5
    assert person[12:, 6:10].float().mean() > 0.9 and person[:4, :6].float().mean() < 0.2


def test_posenet_file_loads(backbones):
    network = network_of()
    initialise(network, backbones / "posenet_mobilenet_v1_075.npz")
    weights = load_weights(backbones / "posenet_mobilenet_v1_075.npz")
    check_fields(network, weights, torch.rand(1, 3, 64, 64) * 255)


def test_trunk_of_another_width_is_refused_by_layer(tmp_path):
    path = tmp_path / "narrow.npz"
    np.savez(path, **published_like(network_of()))
    message = r"'conv0.weight' is \(24, 3, 3, 3\), the trunk needs \(32, 3, 3, 3\)"
    with pytest.raises(ValueError, match=message):
        initialise(network_of(trunk="mobilenet_v1_100"), path)
    state = published_like(network_of())
    del state["block07.pw.bias"]
    np.savez(path, **state)
    with pytest.raises(ValueError, match=r"no 'block07\.pw\.bias'"):
        initialise(network_of(), path)


def mobilenet_v2() -> KDCNet:
    config = NetworkConfig(trunk="mobilenet_v2", output_stride=32, stride=32, channels=8, head_units=0)
    return KDCNet(config).eval()


def test_torchvisions_checkpoint_starts_the_trunk(tmp_path):
    torch.manual_seed(1)
    source = mobilenet_v2()
    state = {k: v.clone() for k, v in source.trunk.state_dict().items() if "num_batches" not in k}
    state["features.18.0.weight"] = torch.zeros(1280, 320, 1, 1)
    state["classifier.1.weight"] = torch.zeros(1000, 1280)
    torch.save(state, tmp_path / "v2.pth")
    torch.manual_seed(2)
    network = mobilenet_v2()
    initialise(network, tmp_path / "v2.pth")
    for name, value in source.trunk.state_dict().items():
        assert torch.equal(value, network.trunk.state_dict()[name]), name
    del state["features.3.conv.2.weight"]
    torch.save(state, tmp_path / "v2.pth")
    message = r"does not fit mobilenet_v2: it lacks \['features\.3\.conv\.2\.weight'\]"
    with pytest.raises(ValueError, match=message):
        initialise(network, tmp_path / "v2.pth")


def test_mobilenet_v2_files_load(backbones):
    for name in ("imagenet", "movenet", "deeplab_pascal"):
        network = mobilenet_v2()
        initialise(network, backbones / f"mobilenet_v2_{name}.npz")
        weight = load_weights(backbones / f"mobilenet_v2_{name}.npz")["features.17.conv.2.weight"]
        assert torch.equal(network.trunk.features[17].conv[2].weight, weight)


def movenet(channels: int = 64, trunk: str = "movenet") -> KDCNet:
    torch.manual_seed(0)
    return KDCNet(NetworkConfig(trunk=trunk, output_stride=32, channels=channels, head_units=0)).eval()


@pytest.fixture(scope="module")
def movenet_weights() -> dict[str, np.ndarray]:
    return made_weights()


def test_movenets_features_are_the_pyramids_first_channels(tmp_path, movenet_weights):
    path = write_graph(tmp_path, movenet_weights)
    network = movenet()
    initialise(network, path)
    picture = torch.rand(1, 3, 96, 128) * 2 - 1
    with torch.no_grad():
        features = network.pyramid(network.trunk(picture))
        expected = published_pyramid(movenet_weights, picture)
    assert expected.std() > 0.1
    torch.testing.assert_close(features[:, :24], expected, rtol=1e-4, atol=1e-5)
    # The other channels see the picture too, and are not stronger by an order of magnitude.
    others = features[:, 24:].std()
    assert 0.1 * expected.std() < others < 10 * expected.std()


def test_movenets_graph_must_fit(tmp_path, movenet_weights):
    with pytest.raises(ValueError, match="starts the trunk movenet, not mobilenet_v2"):
        initialise(movenet(trunk="mobilenet_v2"), write_graph(tmp_path, movenet_weights))
    with pytest.raises(ValueError, match=r"'conv2d/Conv2D/.*' is \(64, 1280, 1, 1\), .* room for \(48, 1280"):
        initialise(movenet(channels=48), write_graph(tmp_path, movenet_weights))
    name = "model/block_7_project/Conv2D_weights"
    lacking = {k: v for k, v in movenet_weights.items() if k != PREFIX + name}
    with pytest.raises(ValueError, match=f"the graph model has no '{name}': is it MoveNet MultiPose"):
        initialise(movenet(), write_graph(tmp_path, lacking))


def test_a_checkpoint_starts_the_whole_network_with_its_average(small_config, tmp_path):
    path = Trainer(dataclasses.replace(small_config, epochs=4 / 7), tmp_path / "first", device="cpu").run()
    average = load_checkpoint(path)["average"]
    second = dataclasses.replace(small_config, pretrained=str(path), learning_rate=0.5, seed=7)
    begun = Trainer(second, tmp_path / "second", device="cpu")
    assert begun.step == 0
    for name, value in begun.network.state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=0, atol=0)
    wider = dataclasses.replace(small_config, channels=16)
    with pytest.raises(ValueError, match=r"last\.pt is of another network: \['pose\..*\(of \d+\) do not fit"):
        initialise(KDCNet(wider.network()), path)
    deeper = dataclasses.replace(small_config, head_units=2)
    with pytest.raises(ValueError, match=r"is of another network: \['pose\.units\.1"):
        initialise(KDCNet(deeper.network()), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"last\.pt is not a readable checkpoint"):
        initialise(KDCNet(small_config.network()), path)


def test_files_that_are_no_weights_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no pretrained weights at .*nothing\.npz"):
        load_weights(tmp_path / "nothing.npz")
    for name, content in (
        ("empty.npz", b""),
        ("text.npz", b"hello"),
        ("cut.npz", b"PK\x03\x04broken"),
        ("empty.pth", b""),
        ("text.pth", b"hello"),
        ("cut.pth", b"PK\x03\x04broken"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not a readable weights file"):
            load_weights(tmp_path / name)
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "nested.pth")
    with pytest.raises(ValueError, match=r"nested\.pth is not a state dict"):
        load_weights(tmp_path / "nested.pth")


def test_pickled_code_is_not_run(tmp_path):
    class Bad:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    torch.save({"a": Bad()}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="not a readable weights file"):
        load_weights(tmp_path / "bad.pth")
    assert not (tmp_path / "run").exists()
