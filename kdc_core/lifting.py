"""Keypoints into space by a depth image: how far is what the camera sees at each joint.

A joint's pixel alone is no safe measure: limbs are a few pixels wide, depth images have holes and their edges
float between body and wall. So a patch around the joint is sampled, on the person's own pixels only; its
distances fall into layers (hand before trunk, trunk before wall), and the nearest layer that fills enough of
the patch is the joint's, because whatever lies behind a body part is farther.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdc_core.types import People

_SAMPLES = 7  # a patch is 7 x 7 samples, however large it is
_STEPS = np.linspace(-1, 1, _SAMPLES)
_GRID = np.stack(np.meshgrid(_STEPS, _STEPS), axis=-1).reshape(-1, 2)
_GRID_WEIGHTS = np.exp(-1.5 * (_GRID**2).sum(axis=1))
_BOX_STEPS = 24  # 24 x 24 samples in a person's box tell where the person's middle is


@dataclass(frozen=True)
class LiftingOptions:
    """How depth is read at the joints.

    near_m, far_m:    distances outside are no measurements.
    patch:            half the patch's side, as a part of the person's size (square root of the box's area).
    wide_patch:       the same for joints where that holds too little of the person: limbs reach beyond rough masks.
    patch_least_px:   at least so many pixels of the depth image.
    layer_gap_m:      distances so far apart are different layers, at the least ...
    layer_gap:        ... and this part of the distance, for depth noise grows with it.
    layer_share:      the nearest layer counts if it has this share of the patch's weight.
    samples_least:    so many measured samples on the person are needed.
    reach_m:          a joint farther than this from the person's middle (along z) is somebody or something else.
    """

    near_m: float = 0.1
    far_m: float = 20.0
    patch: float = 0.03
    wide_patch: float = 0.08
    patch_least_px: float = 2.0
    layer_gap_m: float = 0.05
    layer_gap: float = 0.015
    layer_share: float = 0.2
    samples_least: int = 3
    reach_m: float = 1.3


@dataclass(frozen=True, eq=False)
class KeypointDepths:
    """Depths (z, along the optical axis) of N persons' keypoints.

    depth_m:  float64 (N, K), NaN = unknown. spread_m: float64 (N, K), their standard deviation inside the patch.
    person_m: float64 (N,), the person's median depth. person_spread_m: float64 (N,), its robust deviation.
    """

    depth_m: np.ndarray
    spread_m: np.ndarray
    person_m: np.ndarray
    person_spread_m: np.ndarray


def read_depths(
    people: People, depth: np.ndarray, image_hw: tuple[int, int], options: LiftingOptions
) -> KeypointDepths:
    """Depths at the joints of the people.

    depth:    (h, w), float32 metres or uint16 millimetres along the optical axis, registered to the colour image: the
              same view, of any size. Zero, negative, NaN and infinite values are holes.
    image_hw: (height, width) of the colour image, in whose pixels the people are.

    With instance masks only the person's own pixels count; without, everything in the patch does.
    """
    depth_m = np.full(people.keypoint_scores.shape, np.nan)
    spread_m = np.full(people.keypoint_scores.shape, np.nan)
    wanted = people.keypoint_scores > 0
    for part in (options.patch, options.wide_patch):
        persons, joints = np.nonzero(wanted & np.isnan(depth_m))
        samples, weight = _patches(people, persons, joints, depth, image_hw, part, options)
        depth_m[persons, joints], spread_m[persons, joints] = _front_layer(samples, weight, options)
    person_m, person_spread_m = _person_depths(people, depth, depth_m, options)
    # Without a middle to compare with there is no joint either: both are NaN then.
    with np.errstate(invalid="ignore"):
        strange = ~(np.abs(depth_m - person_m[:, None]) <= options.reach_m)
    depth_m[strange] = spread_m[strange] = np.nan
    return KeypointDepths(depth_m, spread_m, person_m, person_spread_m)


def clean_depth(depth: np.ndarray, options: LiftingOptions) -> np.ndarray:
    """Depths in metres with NaN for what is no measurement, float32. depth: float metres, or whole numbers mm."""
    depth = depth.astype(np.float32) * np.float32(1e-3 if depth.dtype.kind in "ui" else 1)
    with np.errstate(invalid="ignore"):
        return np.where((depth >= options.near_m) & (depth <= options.far_m), depth, np.float32(np.nan))


def _patches(
    people: People,
    persons: np.ndarray,
    joints: np.ndarray,
    depth: np.ndarray,
    image_hw: tuple[int, int],
    part: float,
    options: LiftingOptions,
) -> tuple[np.ndarray, np.ndarray]:
    """Samples around P joints: depth (P, S) in metres, NaN for holes, and weight (P, S), 0 where it does not count.

    persons, joints: int (P,). part: half the patch's side as a part of the person's size.
    """
    height, width = depth.shape
    scale = np.array([width / image_hw[1], height / image_hw[0]])
    extent = np.maximum(people.boxes_xyxy[:, 2:] - people.boxes_xyxy[:, :2], 0).astype(np.float64) * scale
    half = np.maximum(part * np.sqrt(extent.prod(axis=1)), options.patch_least_px)[persons]
    with np.errstate(invalid="ignore"):
        centre = (people.keypoints_xy[persons, joints].astype(np.float64) + 0.5) * scale - 0.5
        inside = ((centre >= -0.5) & (centre < (width - 0.5, height - 0.5))).all(axis=-1)
    centre = np.where(inside[:, None], centre, 0.0)
    places = np.round(centre[:, None] + half[:, None, None] * _GRID).astype(np.intp)
    weight = _GRID_WEIGHTS * ((places >= 0) & (places < (width, height))).all(axis=-1) * inside[:, None]
    columns, rows = np.clip(places[..., 0], 0, width - 1), np.clip(places[..., 1], 0, height - 1)
    depth_m = clean_depth(depth[rows, columns], options)
    if people.mask_labels is not None:
        label_rows, label_columns = _in_image(rows, height, image_hw[0]), _in_image(columns, width, image_hw[1])
        weight *= people.mask_labels[label_rows, label_columns] == persons[:, None] + 1
    weight[np.isnan(depth_m)] = 0
    return depth_m, weight


def _in_image(index: np.ndarray, depth_size: int, image_size: int) -> np.ndarray:
    """Rows or columns of the depth image as those of the colour image under the pixels' centres."""
    if depth_size == image_size:
        return index
    return np.clip(np.round((index + 0.5) * (image_size / depth_size) - 0.5).astype(np.intp), 0, image_size - 1)


def _front_layer(depth: np.ndarray, weight: np.ndarray, options: LiftingOptions) -> tuple[np.ndarray, np.ndarray]:
    """Median and standard deviation of each patch's nearest layer that counts, two (P,); NaN without.

    depth, weight: (P, S), see `_patches`.
    """
    samples = depth.shape[1]
    order = np.argsort(np.where(weight > 0, depth, np.inf), axis=1)
    depth = np.take_along_axis(depth, order, axis=1).astype(np.float64)
    weight = np.take_along_axis(weight, order, axis=1)
    used = weight > 0
    total = weight.sum(axis=1)
    known = used.sum(axis=1) >= options.samples_least
    depth = np.where(used, depth, 0.0)
    gap = options.layer_gap_m + options.layer_gap * depth[:, :-1]
    layer = np.zeros(depth.shape, np.intp)
    layer[:, 1:] = np.cumsum(used[:, 1:] & (np.diff(depth, axis=1) > gap), axis=1)
    place = layer + samples * np.arange(len(depth))[:, None]
    layer_weight = np.bincount(place.ravel(), weight.ravel(), minlength=depth.size).reshape(depth.shape)
    enough = layer_weight >= np.maximum(options.layer_share * total, 1e-12)[:, None]
    # Many thin layers (noise): the heaviest is the best there is.
    chosen = np.where(enough.any(axis=1), enough.argmax(axis=1), layer_weight.argmax(axis=1))
    weight = weight * (layer == chosen[:, None])
    half_way = np.cumsum(weight, axis=1) >= weight.sum(axis=1, keepdims=True) / 2
    median = np.take_along_axis(depth, half_way.argmax(axis=1)[:, None], axis=1)[:, 0]
    sum_of_weights = np.maximum(weight.sum(axis=1), 1e-12)
    spread = np.sqrt((weight * (depth - median[:, None]) ** 2).sum(axis=1) / sum_of_weights)
    return np.where(known, median, np.nan), np.where(known, spread, np.nan)


def _person_depths(
    people: People, depth: np.ndarray, joints_m: np.ndarray, options: LiftingOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Median depth of each person and the deviation from it (1.48 times the median one), two float64 (N,).

    From some hundred of the mask's pixels; without masks or measurements on one, from the joints.
    """
    samples = _mask_depths(people, depth, options)
    few = np.isfinite(samples).sum(axis=1) < options.samples_least
    samples[few] = np.nan
    samples[few, : joints_m.shape[1]] = joints_m[few]
    centre = _median(samples)
    return centre, 1.4826 * _median(np.abs(samples - centre[:, None]))


def _median(values: np.ndarray) -> np.ndarray:
    """Median of each row without its NaN, (N,); NaN for a row of them. np.nanmedian goes row by row in Python."""
    ordered = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(values).sum(axis=1)
    row = np.arange(len(values))
    return (ordered[row, np.maximum(count - 1, 0) // 2] + ordered[row, np.minimum(count // 2, values.shape[1] - 1)]) / 2


def _mask_depths(people: People, depth: np.ndarray, options: LiftingOptions) -> np.ndarray:
    """Depths on a regular grid in each person's box, float64 (N, S), NaN off the mask and for holes."""
    if people.mask_labels is None:
        return np.full((len(people), _BOX_STEPS**2), np.nan)
    height, width = people.mask_labels.shape
    share = (np.arange(_BOX_STEPS) + 0.5) / _BOX_STEPS
    # To float32's limits and beyond: what is infinite or unknown becomes the border.
    box = np.clip(np.nan_to_num(people.boxes_xyxy.astype(np.float64)), -1, (width, height, width, height))
    columns = np.round(box[:, 0, None] + (box[:, 2] - box[:, 0])[:, None] * share).astype(np.intp).clip(0, width - 1)
    rows = np.round(box[:, 1, None] + (box[:, 3] - box[:, 1])[:, None] * share).astype(np.intp).clip(0, height - 1)
    columns, rows = columns[:, None, :], rows[:, :, None]
    own = people.mask_labels[rows, columns] == np.arange(1, len(people) + 1)[:, None, None]
    depth_rows, depth_columns = _in_image(rows, height, depth.shape[0]), _in_image(columns, width, depth.shape[1])
    values = clean_depth(depth[depth_rows, depth_columns], options)
    return np.where(own, values, np.nan).reshape(len(people), _BOX_STEPS**2).astype(np.float64)
