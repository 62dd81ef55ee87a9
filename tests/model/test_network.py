"""The network: shapes of its fields, its start, its names, and how coarse and fine predictions add up."""

import pytest
import torch

from kdc_core.geometry import cell_centres_xy
from kdc_core.skeleton import NUM_DIRECTED_EDGES, NUM_KEYPOINTS
from kdc_model.network import FieldTensors, KDCNet, NetworkConfig


def tiny(**changes) -> KDCNet:
    torch.manual_seed(0)
    return KDCNet(NetworkConfig(**{"channels": 8, "head_units": 1, **changes})).eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stride": 8, "mask_mode": "bank", "separable": False},
        {"trunk": "mobilenet_v1_100", "mask_mode": "static", "head_units": 0},
        {"trunk": "mobilenet_v2", "output_stride": 32, "stride": 4},
        {"trunk": "mobilenet_v2", "output_stride": 16, "stride": 16},
        {"trunk": "resnet50", "output_stride": 8, "stride": 8},
    ],
)
def test_fields_have_their_shapes_also_when_not_square(changes):
    with torch.device("meta"):
        network = KDCNet(NetworkConfig(**{"channels": 8, "head_units": 1, **changes}))
        fields = network(torch.empty(2, 3, 64, 96))
    h, w = 64 // network.config.stride, 96 // network.config.stride
    embedding = 2 * NUM_KEYPOINTS if network.config.mask_mode == "bank" else 2
    assert isinstance(fields, FieldTensors)
    assert {name: tuple(f.shape) for name, f in fields._asdict().items()} == {
        "heatmap": (2, NUM_KEYPOINTS, h, w),
        "offset": (2, NUM_KEYPOINTS, 2, h, w),
        "displacement": (2, NUM_DIRECTED_EDGES, 2, h, w),
        "person": (2, h, w),
        "embedding": (2, embedding, h, w),
        "log_sigma": (2, h, w),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_mode": "boxes"}, "mask_mode must be one of"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"head_units": -1}, "head_units at least 0"),
        ({"trunk": "vgg"}, "unknown trunk 'vgg'"),
        ({"stride": 2}, r"stride 2 is not among the levels \(4, 8, 16\)"),
        ({"output_stride": 8}, "output_stride 16, not 8"),
    ],
)
def test_impossible_networks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_starts_with_few_keypoints_few_people_and_a_useful_sigma():
    with torch.no_grad():
        fields = tiny()(torch.randint(0, 256, (1, 3, 64, 64)).float())
    assert 0.003 < fields.heatmap.sigmoid().mean() < 0.03
    assert 0.05 < fields.person.sigmoid().mean() < 0.2
    assert 10 < fields.log_sigma.exp().mean() < 40  # pixels; the published code's 5 is far too small


def test_each_picture_by_itself_in_evaluation_mode():
    network = tiny()
    images = torch.randint(0, 256, (3, 3, 64, 64)).float()
    with torch.no_grad():
        together, alone = network(images), network(images[1:2])
    for a, b in zip(together, alone):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-4)


def test_names_of_parameters_stay_as_in_written_checkpoints():
    names = set(tiny(head_units=2).state_dict())
    assert {
        "trunk.conv0.weight",
        "trunk.block13.pw.bias",
        "pyramid.lateral.0.0.weight",
        "pyramid.lateral.2.1.running_var",
        "pyramid.smooth.1.3.weight",
        "pose.coarse.weight",
        "pose.units.1.conv.4.weight",
        "pose.fine.bias",
        "seg.coarse.bias",
        "seg.fine.weight",
    } <= names
    # Normalisation belongs to the trunk's kind, not to a checkpoint.
    assert "mean" not in names and "std" not in names


def test_channels_of_the_heads_are_the_fields_in_order():
    network = tiny()
    with torch.no_grad():
        for head in (network.pose, network.seg):
            for conv in (head.coarse, head.fine):
                conv.weight.zero_()
                conv.bias.copy_(torch.arange(len(conv.bias)) / 2)  # coarse and fine each bring a half
        fields = network(torch.zeros(1, 3, 64, 64))
    assert fields.heatmap[0, :, 3, 3].tolist() == list(range(17))
    assert fields.offset[0, :, :, 3, 3].flatten().tolist() == list(range(17, 51))
    assert fields.displacement[0, :, :, 3, 3].flatten().tolist() == list(range(51, 115))
    assert fields.person[0, 3, 3] == 0 and fields.log_sigma[0, 3, 3] == 3
    assert fields.embedding[0, :, 3, 3].tolist() == [1, 2]


def test_heads_from_scratch_count_offsets_in_eight_pixels():
    """The logits and log sigma stay as they are; BodyPix's heads, above, count in pixels."""
    network = tiny(trunk="movenet", output_stride=32)
    with torch.no_grad():
        for head in (network.pose, network.seg):
            for conv in (head.coarse, head.fine):
                conv.weight.zero_()
                conv.bias.fill_(0.5)
        fields = network(torch.zeros(1, 3, 64, 64))
    for logits in (fields.heatmap, fields.person, fields.log_sigma):
        assert (logits == 1).all()
    for offsets in (fields.offset, fields.displacement, fields.embedding):
        assert (offsets == 8).all()


def test_coarse_offsets_are_exact_on_the_fine_grid():
    """The offset to one place is linear in the cell's own, and stays so when enlarged, but for the border."""
    network = tiny()
    place = torch.tensor([70.0, 41.0])

    class Coarse(torch.nn.Module):
        def forward(self, deep):
            h, w = deep.shape[2:]
            to_place = place[:, None, None] - torch.from_numpy(cell_centres_xy(h, w, 16))
            out = torch.zeros(1, 4, h, w)
            out[0, 1:3] = to_place
            return out

    network.seg.coarse = Coarse()
    with torch.no_grad():
        network.seg.fine.weight.zero_()
        network.seg.fine.bias.zero_()
        embedding = network(torch.zeros(1, 3, 96, 128)).embedding[0]
    expected = place[:, None, None] - torch.from_numpy(cell_centres_xy(24, 32, 4))
    torch.testing.assert_close(embedding[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"trunk": "movenet", "output_stride": 32}])
def test_every_parameter_learns(changes):
    torch.manual_seed(0)
    network = tiny(**changes).train()
    fields = network(torch.randint(0, 256, (2, 3, 64, 64)).float())
    sum(f.square().mean() for f in fields).backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
