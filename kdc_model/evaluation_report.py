"""A folder to look at after an evaluation: `report.md` with precision curves, AP by size and by crowding, the error of
each joint, and the worst pictures drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment

from kdc_core.coco_scores import CocoScores, annotated_poses, oks_matrix, score_keypoints, score_masks
from kdc_core.draw import draw_people
from kdc_core.images import read_rgb
from kdc_core.skeleton import KEYPOINT_NAMES, OKS_SIGMAS
from kdc_core.types import FrameResult
from kdc_model.evaluate import Found, TruthImage, format_table

# Annotated people in an image: alone, a few, a crowd.
CROWDING = (("1 person", 1, 1), ("2 to 4", 2, 4), ("5 and more", 5, 10**9))
# A found person whose OKS is less is somebody else, or nobody.
_SAME_PERSON = 0.3
_WORST_PICTURES = 12


@dataclass(frozen=True, eq=False)
class Matches:
    """The annotated people with keypoints (M in all images) and who was found for each.

    oks:        float64 (M,), 0 where nobody was found.
    similarity: float64 (M, K): each labelled joint's part of the OKS; NaN where not labelled or nobody was found.
    image:      int (M,), index into the images.
    """

    oks: np.ndarray
    similarity: np.ndarray
    image: np.ndarray


def match_people(truth: Sequence[TruthImage], results: Sequence[dict[str, Any]]) -> Matches:
    """Pair annotated and found people of each image for the largest sum of OKS (17 keypoints)."""
    of_image: dict[int, list[np.ndarray]] = {}
    for entry in results:
        of_image.setdefault(entry["image_id"], []).append(np.asarray(entry["keypoints"], np.float64).reshape(-1, 3))
    oks, similarity, number = [], [], []
    for index, image in enumerate(truth):
        keypoints, areas = annotated_poses(image)
        best, parts = np.zeros(len(areas)), np.full(keypoints.shape[:2], np.nan)
        found = of_image.get(image.image_id, [])
        if found:
            found_xy = np.stack(found)[..., :2]
            matrix = oks_matrix(keypoints, areas, found_xy)
            for m, n in zip(*linear_sum_assignment(-matrix)):
                if matrix[m, n] >= _SAME_PERSON:
                    best[m] = matrix[m, n]
                    parts[m] = _joint_similarity(keypoints[m], areas[m], found_xy[n])
        oks.append(best)
        similarity.append(parts)
        number.append(np.full(len(areas), index))
    if not truth:
        return Matches(np.zeros(0), np.zeros((0, len(KEYPOINT_NAMES))), np.zeros(0, int))
    return Matches(np.concatenate(oks), np.concatenate(similarity), np.concatenate(number))


def _joint_similarity(keypoints: np.ndarray, area: float, found_xy: np.ndarray) -> np.ndarray:
    squared = ((keypoints[:, :2] - found_xy) ** 2).sum(1)
    variance = max(area, 1.0) * (2.0 * OKS_SIGMAS.astype(np.float64)) ** 2
    return np.where(keypoints[:, 2] > 0, np.exp(-squared / (2 * variance)), np.nan)


def write_report(
    out: Path,
    truth: Sequence[TruthImage],
    found: Found,
    metrics: Mapping[str, float],
    predict: Callable[[np.ndarray], FrameResult],
    about: Mapping[str, str],
    before: Callable[[TruthImage], None] | None = None,
) -> Path:
    """Write `report.md` and its pictures into a folder; returns the page.

    about: what was measured (model, data, size ...), a line each. predict, before: as in `find_people`, to draw the
    worst pictures.
    """
    out.mkdir(parents=True, exist_ok=True)
    images = list(truth)
    keypoints, masks = score_keypoints(images, found.results), score_masks(images, found.results)
    matches = match_people(images, found.results)
    _save(precision_figure(keypoints, masks), out / "precision.png")
    _save(group_figure(metrics, crowding_scores(images, found.results)), out / "groups.png")
    _save(joint_figure(matches), out / "joints.png")
    lines = ["# Evaluation", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += ["```", format_table(dict(metrics)), "```", ""]
    lines += ["## Precision over recall", "", "![precision](precision.png)", ""]
    lines += ["## By size and by crowding", "", "![groups](groups.png)", ""]
    missed = int((matches.oks == 0).sum())
    lines += ["## Joints", "", f"Of {len(matches.oks)} people with keypoints {missed} were not found (no pose with "]
    lines[-1] += f"an OKS of {_SAME_PERSON}). Of the rest, what each joint loses:"
    lines += ["", "![joints](joints.png)", "", "## The worst pictures", ""]
    lines += ["Annotated people in white boxes, found ones in colour.", ""]
    for number, (index, oks) in enumerate(worst_images(matches)):
        name = f"worst_{number + 1:02d}.jpg"
        picture = _draw(images[index], predict, before)
        if not cv2.imwrite(str(out / name), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85]):
            raise OSError(f"cannot write {out / name}")
        lines += [f"![{name}]({name})", "", f"{images[index].record.path.name}: mean OKS {oks:.2f}", ""]
    page = out / "report.md"
    page.write_text("\n".join(lines))
    return page


def crowding_scores(truth: Sequence[TruthImage], results: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Keypoint AP and mask AP of the images by how many people are annotated in them; -1 where there are none."""
    out = {}
    for name, least, most in CROWDING:
        part = [t for t in truth if least <= sum(not a["iscrowd"] for a in t.annotations) <= most]
        ids = {t.image_id for t in part}
        entries = [r for r in results if r["image_id"] in ids]
        keypoint_ap = score_keypoints(part, entries).metrics["AP"] if part else -1.0
        mask_ap = score_masks(part, entries).metrics["AP"] if part else -1.0
        out[f"{name} ({len(part)} images)"] = (keypoint_ap, mask_ap)
    return out


def worst_images(matches: Matches) -> list[tuple[int, float]]:
    """The images with most OKS lost over all their people, worst first: index and mean OKS."""
    lost: dict[int, list[float]] = {}
    for image, oks in zip(matches.image.tolist(), matches.oks.tolist()):
        lost.setdefault(image, []).append(oks)
    ranked = sorted(lost, key=lambda i: -sum(1 - oks for oks in lost[i]))
    return [(i, float(np.mean(lost[i]))) for i in ranked[:_WORST_PICTURES]]


def precision_figure(keypoints: CocoScores, masks: CocoScores) -> Figure:
    """Precision over recall at an OKS or IoU of 0.5, 0.75 and 0.9."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    recall = np.linspace(0, 1, keypoints.precision.shape[1])
    for number, (title, scores) in enumerate((("keypoints, OKS", keypoints), ("masks, IoU", masks))):
        axes = figure.add_subplot(1, 2, number + 1)
        for row, threshold in ((0, 0.5), (5, 0.75), (8, 0.9)):
            axes.plot(recall, np.maximum(scores.precision[row], 0), label=f"{threshold:.2f}")
        axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def group_figure(metrics: Mapping[str, float], crowding: Mapping[str, tuple[float, float]]) -> Figure:
    """AP by the size of the person (COCO's classes) and by the number of people in the image."""
    figure = Figure(figsize=(9, 3.0), layout="constrained")
    sizes = {
        "small": (-1.0, metrics.get("segm.APS", -1.0)),
        "medium": (metrics["keypoints.APM"], metrics.get("segm.APM", -1.0)),
        "large": (metrics["keypoints.APL"], metrics.get("segm.APL", -1.0)),
    }
    for number, (title, groups) in enumerate((("by size", sizes), ("by people in the image", crowding))):
        axes = figure.add_subplot(1, 2, number + 1)
        place = np.arange(len(groups))
        for shift, kind, part in ((-0.2, "keypoint AP", 0), (0.2, "mask AP", 1)):
            values = [max(0.0, group[part]) for group in groups.values()]
            axes.bar(place + shift, values, 0.36, label=kind)
        axes.set_xticks(place, groups.keys(), fontsize=8)
        axes.set(title=title, ylim=(0, 1))
        axes.grid(axis="y", alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def joint_figure(matches: Matches) -> Figure:
    """What each joint loses of its part in the OKS, and how often it is lost altogether (below 0.1)."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.add_subplot()
    counts = np.maximum((~np.isnan(matches.similarity)).sum(0), 1)
    loss = np.nansum(1 - matches.similarity, axis=0) / counts
    gone = (matches.similarity < 0.1).sum(0) / counts
    place = np.arange(len(KEYPOINT_NAMES))
    axes.bar(place - 0.2, loss, 0.36, label="mean loss")
    axes.bar(place + 0.2, gone, 0.36, label="share lost altogether")
    axes.set_xticks(place, [name.replace("_", " ") for name in KEYPOINT_NAMES], rotation=60, ha="right", fontsize=8)
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _draw(
    image: TruthImage,
    predict: Callable[[np.ndarray], FrameResult],
    before: Callable[[TruthImage], None] | None,
) -> np.ndarray:
    picture = read_rgb(image.record.path, upright=False)
    if before is not None:
        before(image)
    drawn = draw_people(picture, predict(picture).people)
    for annotation in image.annotations:
        x, y, width, height = (round(v) for v in annotation["bbox"])
        cv2.rectangle(drawn, (x, y), (x + width, y + height), (255, 255, 255), 1)
    return drawn


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)
