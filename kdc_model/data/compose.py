"""Augmentation that joins pictures: occlusion by pasted people, mosaics; and blur.

Everything works on pictures that are already warped to network pixels with their ground truth, so that keypoints,
instance maps and ignore regions move together by construction.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from kdc_core.encode import GroundTruth
from kdc_core.skeleton import NUM_KEYPOINTS

# A pasted outline is softened by this much (Gaussian, network pixels), or its edge would give it away.
_FEATHER_SIGMA_PX = 0.7
# A person of which less is left than this share of its pixels is as good as gone.
_LEAST_VISIBLE = 0.1


def paste_person(
    image: np.ndarray, truth: GroundTruth, donor_image: np.ndarray, donor: GroundTruth, person: int
) -> tuple[np.ndarray, GroundTruth]:
    """Cut `person` out of the donor by its mask and paste it, in front of everybody, at the same place.

    image, donor_image: uint8 (H, W, 3) of equal size. Keypoints that the pasted person covers are no longer
    labelled: what is behind is not to be guessed; nor are the pasted person's own points that something hid in the
    donor. People of whom next to nothing is left are dropped with their keypoints; what is left of them counts in no
    loss.

    Raises ValueError for a person without a mask, or pictures of different sizes.
    """
    if image.shape != donor_image.shape:
        raise ValueError(f"the pictures have different sizes: {image.shape} and {donor_image.shape}")
    cut = donor.instance == person + 1
    if not cut.any():
        raise ValueError(f"person {person} of the donor has no mask here")
    alpha = cv2.GaussianBlur(cut.astype(np.float32), (0, 0), _FEATHER_SIGMA_PX)[..., None]
    mixed = image + (donor_image.astype(np.float32) - image) * alpha
    before = np.bincount(truth.instance.ravel(), minlength=len(truth.labelled) + 1)[1:]
    instance = np.where(cut, np.uint16(len(truth.labelled) + 1), truth.instance)
    after = np.bincount(instance.ravel(), minlength=len(truth.labelled) + 1)[1 : len(truth.labelled) + 1]
    labelled = truth.labelled & ~_covered(truth.keypoints_xy, cut)
    gone = (before > 0) & (after < _LEAST_VISIBLE * before)
    labelled[gone] = False
    remains = np.isin(instance, np.flatnonzero(gone) + 1)
    instance[remains] = 0
    margin_px = 2 + round(0.05 * float(np.sqrt(cut.sum())))
    near = cv2.dilate(cut.astype(np.uint8), np.ones((2 * margin_px + 1,) * 2, np.uint8)) > 0
    seen = donor.labelled[person] & _covered(donor.keypoints_xy[person], near)
    joined = GroundTruth(
        keypoints_xy=np.concatenate([truth.keypoints_xy, donor.keypoints_xy[person : person + 1]]),
        labelled=np.concatenate([labelled, seen[None]]),
        instance=instance,
        has_mask=np.append(truth.has_mask, True),
        keypoint_ignore=np.where(cut, donor.keypoint_ignore, truth.keypoint_ignore) | remains,
        mask_ignore=(truth.mask_ignore & ~cut) | remains,
        annotated_types=truth.annotated_types & donor.annotated_types,
    )
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8), joined


def _covered(points_xy: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Which points (..., 2) lie on a mask, bool (...)."""
    height, width = cut.shape
    column, row = np.rint(points_xy[..., 0]).astype(int), np.rint(points_xy[..., 1]).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return inside & cut[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]


def mosaic_tiles(input_hw: tuple[int, int], rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Four tiles (left, top, width, height) around a random crossing in the middle of the picture."""
    height, width = input_hw
    x, y = round(width * rng.uniform(0.35, 0.65)), round(height * rng.uniform(0.35, 0.65))
    return [(0, 0, x, y), (x, 0, width - x, y), (0, y, x, height - y), (x, y, width - x, height - y)]


def mosaic(
    parts: Sequence[tuple[np.ndarray, GroundTruth]],
    tiles: Sequence[tuple[int, int, int, int]],
    input_hw: tuple[int, int],
) -> tuple[np.ndarray, GroundTruth]:
    """Join pictures, each of its tile's size, with their ground truths into one of `input_hw`."""
    image = np.zeros((*input_hw, 3), np.uint8)
    instance = np.zeros(input_hw, np.uint16)
    keypoint_ignore, mask_ignore = np.zeros(input_hw, bool), np.zeros(input_hw, bool)
    keypoints, labelled, has_mask = [], [], []
    count = 0
    for (part, truth), (left, top, width, height) in zip(parts, tiles, strict=True):
        if part.shape != (height, width, 3):
            raise ValueError(f"a part of {part.shape} does not fill a tile of {(height, width, 3)}")
        window = np.s_[top : top + height, left : left + width]
        image[window] = part
        instance[window] = np.where(truth.instance > 0, truth.instance + np.uint16(count), 0)
        keypoint_ignore[window], mask_ignore[window] = truth.keypoint_ignore, truth.mask_ignore
        keypoints.append(truth.keypoints_xy + np.array([left, top], np.float32))
        labelled.append(truth.labelled)
        has_mask.append(truth.has_mask)
        count += len(truth.labelled)
    return image, GroundTruth(
        keypoints_xy=np.concatenate(keypoints).reshape(-1, NUM_KEYPOINTS, 2),
        labelled=np.concatenate(labelled),
        instance=instance,
        has_mask=np.concatenate(has_mask),
        keypoint_ignore=keypoint_ignore,
        mask_ignore=mask_ignore,
        annotated_types=np.all([truth.annotated_types for _, truth in parts], axis=0),
    )


def random_blur(image: np.ndarray, largest_px: float, rng: np.random.Generator) -> np.ndarray:
    """Defocus (Gaussian) or camera motion (a line), up to `largest_px` network pixels wide. uint8 (H, W, 3)."""
    extent = rng.uniform(0.5, max(0.5, largest_px))
    if rng.random() < 0.5:
        return cv2.GaussianBlur(image, (0, 0), extent / 2)
    return cv2.filter2D(image, -1, motion_kernel(extent, rng.uniform(0, np.pi)))


def motion_kernel(length_px: float, angle: float) -> np.ndarray:
    """A centred line of this length and angle (radians) as a kernel of sum 1, float32; symmetric, so it shifts
    nothing."""
    reach = int(np.ceil(length_px / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for t in np.linspace(-length_px / 2, length_px / 2, 4 * reach + 1):
        x, y = reach + t * np.cos(angle), reach + t * np.sin(angle)
        column, row = int(x), int(y)
        fx, fy = x - column, y - row
        for dy, weight_y in ((0, 1 - fy), (1, fy)):
            for dx, weight_x in ((0, 1 - fx), (1, fx)):
                if weight_x * weight_y > 0:
                    kernel[row + dy, column + dx] += weight_x * weight_y
    return kernel / kernel.sum()


def pasteable(truth: GroundTruth, least_px: int = 64, least_keypoints: int = 3) -> np.ndarray:
    """The numbers of the people whose mask and keypoints here suffice to be pasted elsewhere, int (M,)."""
    area = np.bincount(truth.instance.ravel(), minlength=len(truth.labelled) + 1)[1:]
    return np.flatnonzero((area >= least_px) & (truth.labelled.sum(1) >= least_keypoints))
