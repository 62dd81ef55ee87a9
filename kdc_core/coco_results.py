"""People as entries of COCO's result files."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdc_core.rle import roi_to_coco
from kdc_core.types import People

PERSON_CATEGORY = 1


def coco_results(people: People, image_id: int) -> list[dict[str, Any]]:
    """One entry for each person, best first, as COCO's tools read them.

    keypoints: 51 numbers (x, y, score); a keypoint that was not found keeps the decoder's guess of its place
    with score 0. bbox: [x, y, width, height] of the pixels covered. segmentation: COCO's compressed RLE of
    the whole image, absent where masks were not asked for; mask_score: to rank the masks by, where it is known.
    """
    rois = None if people.mask_labels is None else people.mask_rois().tolist()
    # COCO's tools look at every place, found or not, and JSON has no NaN.
    places = np.where(np.isfinite(people.keypoints_xy), people.keypoints_xy, 0.0)
    entries = []
    for i in np.argsort(-people.scores, kind="stable").tolist():
        keypoints = np.column_stack([places[i], people.keypoint_scores[i]]).astype(np.float64)
        x_min, y_min, x_max, y_max = people.boxes_xyxy[i].astype(np.float64).tolist()
        entry: dict[str, Any] = {
            "image_id": image_id,
            "category_id": PERSON_CATEGORY,
            "keypoints": _rounded(keypoints),
            "score": round(float(people.scores[i]), 5),
            # From pixel centres to the edges of the outermost pixels.
            "bbox": [round(v, 2) for v in (x_min, y_min, x_max - x_min + 1, y_max - y_min + 1)],
        }
        if rois is not None:
            assert people.mask_labels is not None
            x, y, width, height = rois[i]
            image_hw = (people.mask_labels.shape[0], people.mask_labels.shape[1])
            crop = people.mask_labels[y : y + height, x : x + width] == i + 1
            entry["segmentation"] = roi_to_coco(crop, (x, y), image_hw)
        if people.mask_scores is not None:
            entry["mask_score"] = round(float(people.mask_scores[i]), 5)
        entries.append(entry)
    return entries


def _rounded(keypoints: np.ndarray) -> list[float]:
    """(K, 3) -> 3K numbers; a hundredth of a pixel and a ten-thousandth of a score are enough."""
    numbers = np.column_stack([keypoints[:, :2].round(2), keypoints[:, 2].round(4)])
    flat: list[float] = numbers.ravel().tolist()
    return flat
