"""Small cases made by hand for the tests of the losses."""

import numpy as np
import torch

from kdc_core.encode import GroundTruth, encode, ideal_fields
from kdc_core.skeleton import KEYPOINT_INDEX, NUM_DIRECTED_EDGES, NUM_KEYPOINTS
from kdc_model.data.dataset import Batch, collate
from kdc_model.losses import all_losses
from kdc_model.network import FieldTensors

NOSE, EYE, SHOULDER = (KEYPOINT_INDEX[n] for n in ("nose", "left_eye", "right_shoulder"))
STRIDE, RADIUS, SIDE = 4, 8.0, 64
CELLS = SIDE // STRIDE


def truth(people: list[dict[int, tuple[float, float]]], boxes=(), **maps) -> GroundTruth:
    """People with these keypoints and rectangular masks (rows, columns; None: without mask)."""
    # Poison: a missing joint must not be read.
    xy = np.full((len(people), NUM_KEYPOINTS, 2), np.nan, np.float32)
    instance = np.zeros((SIDE, SIDE), np.uint16)
    for n, keypoints in enumerate(people):
        for k, place in keypoints.items():
            xy[n, k] = place
        if n < len(boxes) and boxes[n] is not None:
            instance[boxes[n]] = n + 1
    nowhere = np.zeros((SIDE, SIDE), bool)
    return GroundTruth(
        keypoints_xy=xy,
        labelled=~np.isnan(xy[..., 0]),
        instance=instance,
        has_mask=np.array([n < len(boxes) and boxes[n] is not None for n in range(len(people))], bool),
        **{"keypoint_ignore": nowhere, "mask_ignore": nowhere, **maps},
    )


def batch_of(*truths: GroundTruth) -> Batch:
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    return collate([(picture, encode(t, STRIDE, RADIUS)) for t in truths])


def fields_of(batch: Batch, mask_mode: str = "embedding", **values: float) -> FieldTensors:
    """Constant fields that ask for gradients."""
    b = len(batch.images)
    channels = 2 * NUM_KEYPOINTS if mask_mode == "bank" else 2
    shapes = {
        "heatmap": (b, NUM_KEYPOINTS, CELLS, CELLS),
        "offset": (b, NUM_KEYPOINTS, 2, CELLS, CELLS),
        "displacement": (b, NUM_DIRECTED_EDGES, 2, CELLS, CELLS),
        "person": (b, CELLS, CELLS),
        "embedding": (b, channels, CELLS, CELLS),
        "log_sigma": (b, CELLS, CELLS),
    }
    leaves = {n: torch.full(s, values.get(n, 0.0), requires_grad=True) for n, s in shapes.items()}
    return FieldTensors(**leaves)


def ideal(batch: Batch, *truths: GroundTruth, mask_mode: str) -> FieldTensors:
    """What a perfect network would say, as leaves that ask for gradients."""
    parts = [ideal_fields(encode(t, STRIDE, RADIUS), STRIDE, mask_mode == "bank") for t in truths]

    def stacked(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([getattr(p, name) for p in parts])).float()

    values = {
        "heatmap": (stacked("heatmap") - 0.5) * 60,
        "offset": stacked("offset"),
        "displacement": stacked("displacement"),
        "person": (stacked("person") - 0.5) * 60,
        "embedding": stacked("embedding").nan_to_num(),
        "log_sigma": stacked("sigma").log(),
    }
    return FieldTensors(**{n: v.requires_grad_() for n, v in values.items()})


def losses(fields: FieldTensors, batch: Batch, mask_mode: str = "embedding") -> dict[str, torch.Tensor]:
    return all_losses(fields, batch, STRIDE, mask_mode)


def gradient(loss: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(loss, leaf, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(leaf) if found is None else found


ONE = truth([{NOSE: (20.0, 20.0), EYE: (26.0, 16.0)}], [np.s_[8:40, 8:32]])
TWO = truth(
    [{NOSE: (16.0, 20.0), SHOULDER: (12.0, 30.0)}, {NOSE: (48.0, 20.0), SHOULDER: (52.0, 44.0)}],
    [np.s_[8:56, 4:28], np.s_[8:56, 36:60]],
)
NOBODY = truth([])
