"""Run-length encoding of masks in COCO's convention, without pycocotools.

The pixels are taken column by column (top to bottom, then left to right); runs of background and person
alternate and the first is background, 0 long where the first pixel is the person's. `encode_counts` gives
these run lengths ("COCO uncompressed RLE"), `to_coco` the compressed string of COCO's result files.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from kdc_core.label_map import ColumnRuns


def encode_counts(mask: np.ndarray) -> np.ndarray:
    """Run lengths of a mask, bool (h, w) -> uint32 (R,), summing to h * w; empty if there is no pixel."""
    height, width = mask.shape
    return encode_roi_counts(mask, (0, 0), (height, width))


def encode_roi_counts(crop: np.ndarray, left_top: tuple[int, int], image_hw: tuple[int, int]) -> np.ndarray:
    """Run lengths, in the whole image, of a mask given by its ROI alone; the image-sized mask is never made.

    crop: bool (h, w); left_top: column and row of its first pixel in the image; image_hw: height and width of
    the image. Returns uint32 (R,) summing to H * W. Raises ValueError where the ROI leaves the image.
    """
    height, width = image_hw
    (left, top), (rows, cols) = left_top, crop.shape
    if left < 0 or top < 0 or left + cols > width or top + rows > height:
        raise ValueError(
            f"a ROI of {cols} x {rows} at ({left}, {top}) leaves the image of {width} x {height}"
        )
    if height * width == 0:
        return np.zeros(0, np.uint32)
    # Within a column, runs start where the person appears and end where it disappears; one row of background
    # on either side closes those that touch the ROI's border.
    columns = np.zeros((cols, rows + 2), np.int8)
    columns[:, 1:-1] = crop.T
    change = np.diff(columns, axis=1)
    starts, ends = (
        (left + column) * height + top + row
        for column, row in (np.nonzero(change == 1), np.nonzero(change == -1))
    )
    # A run down to the last row goes on at the top of the next column.
    joins = starts[1:] == ends[:-1]
    starts = starts[np.concatenate([[True], ~joins])] if len(starts) else starts
    ends = ends[np.concatenate([~joins, [True]])] if len(ends) else ends
    edges = np.empty(2 * len(starts) + 2, np.int64)
    edges[0], edges[-1] = 0, height * width
    edges[1:-1:2], edges[2:-1:2] = starts, ends
    counts = np.diff(edges)
    # COCO writes no empty last run.
    return (counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts).astype(np.uint32)


def encode_labels(labels: np.ndarray, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Every person's mask of a label map at once: its tight rectangle, and the run lengths inside that rectangle.

    labels: uint16 (H, W), 0 = background, i + 1 = person i. Returns int32 (count, 4) x, y, width, height, all 0 for a
    person without a pixel, and as many uint32 (R,), empty there: `encode_counts` of each person's crop, for the price
    of one look at the picture. Raises ValueError for a label beyond `count`.
    """
    runs = ColumnRuns.of(labels, count)
    rois = runs.rois()
    person = runs.person
    # Places in all rectangles' columns laid end to end: rectangle n takes up begin[n]..end[n].
    area = rois[:, 2].astype(np.int64) * rois[:, 3]
    end = np.cumsum(area)
    begin = end - area
    x, y, _, height = rois[person].T
    top = begin[person] + (runs.column - x) * height.astype(np.int64) - y
    start, stop = top + runs.start, top + runs.stop
    # A run down to the last row goes on at the top of the next column.
    parts = np.flatnonzero((start[1:] != stop[:-1]) | (person[1:] != person[:-1]))
    firsts, lasts = np.append(0, parts + 1)[: len(start)], np.append(parts, len(start) - 1)[: len(start)]
    start, stop, person = start[firsts], stop[lasts], person[firsts]
    # Each person's edges between its rectangle's begin and end: one subtraction gives everybody's run lengths.
    slots = 2 * np.bincount(person, minlength=count) + 2
    last = np.cumsum(slots) - 1
    edges = np.empty(int(slots.sum()), np.int64)
    edges[last - slots + 1], edges[last] = begin, end
    place = 2 * np.arange(len(person)) + 2 * person + 1
    edges[place], edges[place + 1] = start, stop
    lengths = np.diff(edges).astype(np.uint32)
    # COCO writes no empty last run.
    stops = last - (edges[last] == edges[last - 1])
    return rois, [lengths[a:b] for a, b in zip((last - slots + 1).tolist(), stops.tolist())]


def decode_counts(counts: Iterable[int] | np.ndarray, height: int, width: int) -> np.ndarray:
    """Mask from run lengths, bool (height, width). Raises ValueError unless they fill it exactly."""
    runs = checked_counts(counts, height, width)
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def checked_counts(counts: Iterable[int] | np.ndarray, height: int, width: int) -> np.ndarray:
    """Run lengths as int64 (R,). Raises ValueError unless they fill a mask of (height, width) exactly."""
    runs = np.asarray(counts if isinstance(counts, np.ndarray) else list(counts))
    if runs.size == 0:
        runs = np.zeros(0, np.int64)
    if height < 0 or width < 0 or runs.ndim != 1 or runs.dtype.kind not in "iu":
        raise ValueError(
            f"RLE counts must be whole numbers in one row, got {runs.dtype} of shape {runs.shape}"
        )
    # Before the sum: a count beyond the mask could overflow it.
    if runs.size and (runs.min() < 0 or runs.max() > height * width):
        raise ValueError(f"RLE counts must lie within 0..{height * width}, got {runs.min()}..{runs.max()}")
    runs = runs.astype(np.int64)
    if runs.sum() != height * width:
        raise ValueError(
            f"RLE counts add up to {runs.sum()}, a mask of {height} x {width} has {height * width}"
        )
    return runs


def to_coco(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed RLE of a mask, bool (H, W) -> {"size": [H, W], "counts": str}."""
    return {"size": [int(s) for s in mask.shape], "counts": compress_counts(encode_counts(mask))}


def roi_to_coco(crop: np.ndarray, left_top: tuple[int, int], image_hw: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed RLE, in the whole image, of a mask given by its ROI (see `encode_roi_counts`)."""
    counts = encode_roi_counts(crop, left_top, image_hw)
    return {"size": [int(s) for s in image_hw], "counts": compress_counts(counts)}


def from_coco(rle: dict[str, Any]) -> np.ndarray:
    """Mask of a COCO RLE, its counts a compressed str / bytes or a list; bool (H, W). Raises ValueError."""
    try:
        (height, width), counts = rle["size"], rle["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'a COCO RLE needs "size" [height, width] and "counts", got {rle!r:.80}') from error
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    return decode_counts(
        expand_counts(counts) if isinstance(counts, str) else counts, int(height), int(width)
    )


def compress_counts(counts: Iterable[int] | np.ndarray) -> str:
    """Run lengths -> COCO's string.

    From the fourth run on the difference from the run before last is written (neighbouring columns are
    alike); each number as groups of 5 bits, lowest first, 32 added while more follow, shifted by 48 into
    printable ASCII.
    """
    runs = [int(c) for c in counts]
    characters = []
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            # The last group's top bit is the sign.
            more = value != -1 if bits & 0x10 else value != 0
            characters.append(chr(bits + (0x20 if more else 0) + 48))
    return "".join(characters)


def expand_counts(text: str) -> list[int]:
    """COCO's string -> run lengths, the inverse of `compress_counts`. Raises ValueError for other text."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError(f"{character!r} does not occur in a COCO RLE string")
        value |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError("the COCO RLE string ends in the middle of a number")
    return runs
