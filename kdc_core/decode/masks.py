"""Mask fields + poses -> instance masks (SPEC section 5.4; KDC Eq. 6-8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from kdc_core.decode.grouping import Poses
from kdc_core.decode.mask_only import Centroids, find_mask_only
from kdc_core.geometry import Letterbox
from kdc_core.skeleton import NUM_KEYPOINTS

# The bank form has no sigma of its own: 0.2123 of the person's size gives PosePlusSeg's cut at phi = 0.5.
_BANK_SIGMA = 0.2123
# Cells less likely than this cannot matter, not even through interpolation at a mask's edge.
_BACKGROUND = 0.05
_NOBODY = Centroids(np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
# A rectangle of cells: top, left, bottom, right, the ends exclusive.
_Window = tuple[int, int, int, int]
_MARGIN = 2  # cells around a person's own that smoothing and interpolation look at


@dataclass(frozen=True)
class MaskOptions:
    """How cells become masks.

    person_threshold:    least probability of a person.
    keypoint_confidence: keypoints below this score do not help to place the centroid (unless all are below).
    iterations:          times the centroid is moved to the mean of the cells it has won.
    smoothing_cells:     sigma of the instance-wise Gaussian (IGO, KDC Eq. 8) in cells; below 0.3 none.
    mask_only_cells:     least size of somebody whom only the mask fields show.
    mask_only_apart:     where such a person's centroid lies, phi of everybody else must not be above this.
    """

    person_threshold: float = 0.4
    keypoint_confidence: float = 0.1
    iterations: int = 1
    smoothing_cells: float = 0.5
    mask_only_cells: int = 16
    mask_only_apart: float = 0.4

    def __post_init__(self) -> None:
        for name in ("person_threshold", "keypoint_confidence", "mask_only_apart"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be within 0..1, got {getattr(self, name)}")
        for name, least in (("iterations", 0), ("mask_only_cells", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class MaskFields:
    """SegNet's outputs, float32: person (h, w) probability, embedding (C, h, w) and sigma (h, w) in network pixels."""

    person: np.ndarray
    embedding: np.ndarray
    sigma: np.ndarray
    stride: int


@dataclass(frozen=True, eq=False)
class InstanceMasks:
    """The masks of N people with a pose, and after them of M whom only the mask fields show, in source pixels.

    labels:       uint16 (H, W), 0 = background, n + 1 = person n; every pixel has one person at most.
    scores:       float32 (N + M,), the IoU to be expected of each mask, its soft form (the mask and two cells around
                  it) taken for probabilities; 0 where no cell was won. The M are in this order, best first.
    centroids_xy: float32 (M, 2), where the cells of these M point, in network pixels.
    """

    labels: np.ndarray
    scores: np.ndarray
    centroids_xy: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))


@dataclass(frozen=True, eq=False)
class _Cells:
    """The P cells that may belong to somebody: index (P,) into the flat field; person (P,); embedding (C/2, 2, P)."""

    index: np.ndarray
    person: np.ndarray
    embedding: np.ndarray

    @classmethod
    def active(cls, fields: MaskFields) -> _Cells:
        """Cells above the background that point somewhere, their embedding as absolute pixels e(x) = x + v(x)."""
        index = np.flatnonzero(fields.person > _BACKGROUND)
        row, col = np.divmod(index, fields.person.shape[1])
        centre = (np.stack([col, row]).astype(np.float32) + 0.5) * fields.stride - 0.5
        offset = fields.embedding.reshape(len(fields.embedding), -1).take(index, 1)
        if not np.isfinite(offset).all():
            somewhere = np.isfinite(offset).all(0)
            index, offset, centre = index[somewhere], offset[:, somewhere], centre[:, somewhere]
        return cls(index, fields.person.take(index), offset.reshape(len(offset) // 2, 2, len(index)) + centre)


@dataclass(frozen=True, eq=False)
class _Territories:
    """Who is surest of each active cell.

    owner:     intp (P,), the person, -1 where there is none at all; phi: float32 (P,), how sure.
    of:        phi of one person at some of the active cells: of(n, cells) -> float32 of the cells' shape.
    centroids: of all the people, where their cells point at one place at all (not in the bank form).
    """

    owner: np.ndarray
    phi: np.ndarray
    of: Callable[[int, np.ndarray], np.ndarray]
    centroids: Centroids | None = None


def decode_masks(
    fields: MaskFields,
    poses: Poses,
    letterbox: Letterbox,
    options: MaskOptions | None = None,
    mask_only: int = 0,
    least_score: float = 0.0,
) -> InstanceMasks:
    """Instance masks of N poses, and of at most `mask_only` people more whose masks score `least_score` or better.

    phi_j(x) = exp(-|e(x) - C_j|^2 / 2 sigma_j^2) with C_j and sigma_j the confidence-weighted means of embedding and
    sigma at the person's confident keypoints: the dynamic centroid. A pixel is person j's where phi_j is the largest,
    phi_j > 0.5 and it is a person at all. Of the cells that are then nobody's, those that point at one place are one
    person more (`kdc_core.decode.mask_only`; not in the bank form, which asks for keypoints): the cells of people with
    a pose stay theirs, and between the centres of two people's cells the line is drawn as between any two people.
    """
    options = options or MaskOptions()
    count = len(poses.scores)
    cells = _Cells.active(fields)
    bank = len(cells.embedding) == NUM_KEYPOINTS
    if len(cells.index) == 0 or (count == 0 and (bank or mask_only <= 0)):
        return InstanceMasks(np.zeros(letterbox.source_hw, np.uint16), np.zeros(count, np.float32))
    compete = _bank_territories if bank else _embedding_territories
    known = compete(fields, cells, poses, options)
    painter = _Painter(fields, cells, letterbox, options)
    found, groups = _NOBODY, list[np.ndarray]()
    if mask_only > 0 and known.centroids is not None:
        found, groups = _without_pose(fields, cells, known, letterbox, options)
    while True:
        accepted = _accepted(painter, cells, known, found, groups, options.mask_only_apart, least_score)[:mask_only]
        territories = _joined(known, cells, found[accepted], [groups[n] for n in accepted]) if accepted else known
        windows = dict(painter.windows(territories, count + len(accepted)))
        labels, scores = painter.paint(territories, windows, count + len(accepted))
        # Somebody too thin or too small for a single pixel, and without a keypoint, is nobody.
        hidden = {n for i, n in enumerate(accepted) if not painter.shows(labels, count + i + 1, windows[count + i])}
        if not hidden:
            return _in_order(InstanceMasks(labels, scores, found.centres_xy[accepted]), count)
        others = [n for n in range(len(groups)) if n not in hidden]
        found, groups = found[others], [groups[n] for n in others]


def _accepted(
    painter: _Painter,
    cells: _Cells,
    known: _Territories,
    found: Centroids,
    groups: list[np.ndarray],
    apart: float,
    least_score: float,
) -> list[int]:
    """Which of the groups found are people, best first: good enough beside the people with a pose (those who join later
    can only make a score better), and no part of somebody larger. Those refused take nothing from anybody."""
    count = len(known.centroids or ())
    scores: dict[int, float] = {}
    for n, members in enumerate(groups):
        territories = _joined(known, cells, found[[n]], [members])
        window = dict(painter.windows(territories, count + 1)).get(count)
        if window is not None and (score := painter.score(territories, count, window)) >= least_score:
            scores[n] = score
    accepted: list[int] = []
    for n in sorted(scores, key=lambda n: -len(groups[n])):
        x, y = found.centres_xy[n]
        if all(found.phi(larger, x, y) <= apart for larger in accepted):
            accepted.append(n)
    return sorted(accepted, key=lambda n: -scores[n])


def _in_order(masks: InstanceMasks, count: int) -> InstanceMasks:
    """Those after the first `count` ordered by their scores, to which each may have added something."""
    order = count + np.argsort(-masks.scores[count:], kind="stable")
    if (np.diff(order) == 1).all():
        return masks
    number = np.arange(len(masks.scores) + 1, dtype=np.uint16)
    number[order + 1] = np.arange(count, len(masks.scores)) + 1
    scores = np.concatenate([masks.scores[:count], masks.scores[order]])
    return InstanceMasks(number[masks.labels], scores, masks.centroids_xy[order - count])


def keypoint_weights(poses: Poses, shape_hw: tuple[int, int], stride: int, confidence: float) -> np.ndarray:
    """Weight of each keypoint in its person's centroid, float32 (N, K), rows of sum 1.

    Keypoints outside the field, and those below the confidence where there are better ones, weigh nothing.
    """
    limit = np.array([shape_hw[1], shape_hw[0]]) * stride - 0.5
    inside = ((poses.keypoints_xy >= -0.5) & (poses.keypoints_xy < limit)).all(2)
    scores = poses.keypoint_scores * inside
    confident = np.where(scores >= confidence, scores, 0.0)
    weights = np.where(confident.any(1, keepdims=True), confident, scores)
    # A person without any keypoint in view gets equal weights rather than a division by zero.
    weights = np.where(weights.any(1, keepdims=True), weights, 1.0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def dynamic_centroids(fields: MaskFields, poses: Poses, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """C_j (N, 2) and sigma_j (N,) in network pixels from the embeddings at the poses' keypoints (2-channel forms)."""
    shape_hw = fields.person.shape
    weights = keypoint_weights(poses, shape_hw, fields.stride, confidence)
    cell = np.floor((poses.keypoints_xy + 0.5) / fields.stride).astype(np.intp)
    cell = np.minimum(np.maximum(cell, 0), (shape_hw[1] - 1, shape_hw[0] - 1))
    col, row = cell[..., 0], cell[..., 1]
    embedding = fields.embedding[:, row, col].transpose(1, 2, 0) + ((cell + 0.5) * fields.stride - 0.5)
    sigma = np.exp((np.log(np.maximum(fields.sigma[row, col], 1e-3)) * weights).sum(1))
    return (embedding * weights[..., None]).sum(1).astype(np.float32), sigma.astype(np.float32)


def _embedding_territories(fields: MaskFields, cells: _Cells, poses: Poses, options: MaskOptions) -> _Territories:
    """Cells to the person whose centroid they point at, the centroids moved to the mean of what they have won."""
    centres, sigmas = dynamic_centroids(fields, poses, options.keypoint_confidence)
    x, y = cells.embedding[0]
    scale = 0.5 / sigmas**2
    owner, exponent = _nearest(x, y, centres, scale)
    for _ in range(options.iterations if len(centres) else 0):
        weight = np.exp(-exponent)
        weight = np.where(weight > 0.5, weight, 0.0) * cells.person
        mass, sum_x, sum_y = (np.bincount(owner, weight * v, len(centres)) for v in (1.0, x, y))
        moved = np.stack([sum_x, sum_y], axis=1) / np.maximum(mass, 1.0)[:, None]
        centres = np.where(mass[:, None] >= 1.0, moved, centres).astype(np.float32)
        owner, exponent = _nearest(x, y, centres, scale)

    centroids = Centroids(centres, scale)
    return _Territories(
        owner, np.exp(-exponent), lambda n, chosen: centroids.phi(n, x[chosen], y[chosen]), centroids
    )


def _without_pose(
    fields: MaskFields, cells: _Cells, known: _Territories, letterbox: Letterbox, options: MaskOptions
) -> tuple[Centroids, list[np.ndarray]]:
    """People whom only the fields show: their centroids, and of each the active cells, intp."""
    assert known.centroids is not None
    height, width = picture_cells(letterbox, fields.stride)
    row, col = np.divmod(cells.index, fields.person.shape[1])
    sigma = fields.sigma.take(cells.index)
    free = (cells.person > options.person_threshold) & (known.phi <= 0.5) & np.isfinite(sigma)
    free = np.flatnonzero(free & (row < height) & (col < width))
    x, y = cells.embedding[0]
    least, apart = options.mask_only_cells, options.mask_only_apart
    found, group = find_mask_only(x[free], y[free], cells.person[free], sigma[free], known.centroids, least, apart)
    return found, [free[group == n] for n in range(len(found))]


def _joined(known: _Territories, cells: _Cells, found: Centroids, members: list[np.ndarray]) -> _Territories:
    """The territories of everybody with a pose, unchanged, then those of people without."""
    assert known.centroids is not None
    x, y = cells.embedding[0]
    everybody = known.centroids + found
    owner, phi = known.owner.copy(), known.phi.copy()
    for n, mine in enumerate(members):
        owner[mine], phi[mine] = len(known.centroids) + n, found.phi(n, x[mine], y[mine])
    return _Territories(owner, phi, lambda n, chosen: everybody.phi(n, x[chosen], y[chosen]), everybody)


def _nearest(x: np.ndarray, y: np.ndarray, centres: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centre nearest to each of P points by scale * distance squared: intp (P,), and that product, float32 (P,).

    Without any centre -1 and infinity.
    """
    owner = np.full(len(x), 0 if len(centres) else -1, np.intp)
    least = np.full(len(x), np.inf, np.float32)
    # One person at a time: these few rows stay in the cache, a table of all (N, P) does not.
    across, down, nearer = np.empty_like(x), np.empty_like(y), np.empty(len(x), bool)
    for n, (centre, s) in enumerate(zip(centres, scale)):
        np.subtract(x, centre[0], out=across)
        np.subtract(y, centre[1], out=down)
        np.multiply(across, across, out=across)
        np.multiply(down, down, out=down)
        np.add(across, down, out=across)
        np.multiply(across, s, out=across)
        np.less(across, least, out=nearer)
        np.minimum(across, least, out=least)
        np.copyto(owner, n, where=nearer)
    return owner, least


def _bank_territories(fields: MaskFields, cells: _Cells, poses: Poses, options: MaskOptions) -> _Territories:
    """DM_c-bank: phi of the weighted mean distance between where a cell says the keypoints are and where they are."""
    weights = keypoint_weights(poses, fields.person.shape, fields.stride, options.keypoint_confidence)
    phi = np.empty((len(weights), len(cells.index)), np.float32)
    for n, weight in enumerate(weights):
        used = np.nonzero(weight)[0]
        points = poses.keypoints_xy[n, poses.keypoint_scores[n] > 0]
        extent = np.ptp(points, axis=0) if len(points) else np.zeros(2)
        size = max(float(np.sqrt(extent[0] * extent[1])), 4.0 * fields.stride)
        miss = np.linalg.norm(cells.embedding[used] - poses.keypoints_xy[n, used][:, :, None], axis=1)
        phi[n] = np.exp(-0.5 * (weight[used] @ miss / (size * _BANK_SIGMA)) ** 2)
    return _Territories(phi.argmax(0), phi.max(0), lambda n, chosen: phi[n, chosen])


def _centred(person: np.ndarray, threshold: float) -> np.ndarray:
    """Probabilities rescaled so that the threshold lies at one half."""
    if threshold == 0.5:
        return person
    below, above = 0.5 * person / threshold, 0.5 + 0.5 * (person - threshold) / (1 - threshold)
    return np.where(person < threshold, below, above).astype(np.float32)


class _Painter:
    """Enlarges one person's soft mask after the other into the source picture."""

    def __init__(self, fields: MaskFields, cells: _Cells, letterbox: Letterbox, options: MaskOptions) -> None:
        self._smoothing_cells = options.smoothing_cells
        # Source pixel x lies at (x + 0.5) f - 0.5 in cells, f cells for each source pixel.
        self._cells_xy = (letterbox.scale_xy / fields.stride).tolist()
        self._source_hw = letterbox.source_hw
        self._height, self._width = fields.person.shape
        self._picture_hw = picture_cells(letterbox, fields.stride)
        self._person = _centred(cells.person, options.person_threshold)
        self._index = cells.index
        # Where in the list of active cells each cell of the field stands; -1 for the background.
        self._place = np.full(self._height * self._width, -1, np.intp)
        self._place[cells.index] = np.arange(len(cells.index))
        self._place = self._place.reshape(self._height, self._width)

    def windows(self, territories: _Territories, count: int) -> Iterator[tuple[int, _Window]]:
        """Who has won a cell at all, best first, and where."""
        won = np.flatnonzero((territories.phi > 0.5) & (self._person > 0.5))
        row, col = np.divmod(self._index[won], self._width)
        # A mask in the grey beside a narrow picture is nobody's.
        inside = (row < self._picture_hw[0]) & (col < self._picture_hw[1])
        won, row, col = won[inside], row[inside], col[inside]
        owner = territories.owner[won]
        low = np.full((count, 2), np.iinfo(np.intp).max)
        high = np.full((count, 2), -1)
        for axis, places in enumerate((row, col)):
            np.minimum.at(low[:, axis], owner, places)
            np.maximum.at(high[:, axis], owner, places)
        for n in np.flatnonzero(high[:, 0] >= 0).tolist():
            (top, left), (bottom, right) = low[n].tolist(), high[n].tolist()
            yield n, (top - _MARGIN, left - _MARGIN, bottom + _MARGIN + 1, right + _MARGIN + 1)

    def score(self, territories: _Territories, n: int, window: _Window) -> float:
        """The IoU to be expected of a person's mask."""
        return self._score(self._soft(territories, n, window), window)

    def _score(self, patch: np.ndarray, window: _Window) -> float:
        top, left = window[:2]
        height, width = self._picture_hw
        return expected_iou(patch[max(-top, 0) : height - top, max(-left, 0) : width - left])

    def paint(
        self, territories: _Territories, windows: dict[int, _Window], count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Label each pixel with whose enlarged mask is the largest there, and above 0.5.

        Returns the labels, uint16 (H, W), and everybody's scores, float32 (count,).
        """
        labels, scores = np.zeros(self._source_hw, np.uint16), np.zeros(count, np.float32)
        best = np.full(self._source_hw, 0.5, np.float32)
        for n, window in windows.items():
            scores[n] = self._paint_one(territories, n, window, labels, best)
        return labels, scores

    def _paint_one(
        self, territories: _Territories, n: int, window: _Window, labels: np.ndarray, best: np.ndarray
    ) -> float:
        top, left = window[:2]
        patch = self._soft(territories, n, window)
        score = self._score(patch, window)
        extend_over_border(patch, top, left, *self._picture_hw)
        if self._smoothing_cells >= 0.3:
            patch = cv2.GaussianBlur(patch, (5, 5), self._smoothing_cells, borderType=cv2.BORDER_REPLICATE)
        (y0, y1), (x0, x1) = self._pixels(window)
        if x0 >= x1 or y0 >= y1:
            return 0.0
        fx, fy = self._cells_xy
        to_cells = np.array([[fx, 0, (x0 + 0.5) * fx - 0.5 - left], [0, fy, (y0 + 0.5) * fy - 0.5 - top]])
        enlarged = cv2.warpAffine(
            patch,
            to_cells,
            (x1 - x0, y1 - y0),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        so_far = best[y0:y1, x0:x1]
        np.copyto(labels[y0:y1, x0:x1], n + 1, where=enlarged > so_far)
        np.maximum(enlarged, so_far, out=so_far)
        return score

    def shows(self, labels: np.ndarray, label: int, window: _Window) -> bool:
        """Whether a pixel of the window has this label."""
        (y0, y1), (x0, x1) = self._pixels(window)
        return bool((labels[y0:y1, x0:x1] == label).any())

    def _pixels(self, window: _Window) -> tuple[tuple[int, int], tuple[int, int]]:
        """A window's source pixels: top and bottom, left and right, the ends exclusive."""
        top, left, bottom, right = window
        (height, width), (fx, fy) = self._source_hw, self._cells_xy
        x0, x1 = (min(max(round((edge + 0.5) / fx), 0), width) for edge in (left, right))
        y0, y1 = (min(max(round((edge + 0.5) / fy), 0), height) for edge in (top, bottom))
        return (y0, y1), (x0, x1)

    def _soft(self, territories: _Territories, n: int, window: _Window) -> np.ndarray:
        """Soft mask in a window of cells, float32.

        phi in the person's own territory, below one half where a rival is surer or nobody is; 0 beyond the field.
        """
        top, left, bottom, right = window
        patch = np.zeros((bottom - top, right - left), np.float32)
        y, x = max(top, 0), max(left, 0)
        place = self._place[y : max(bottom, 0), x : max(right, 0)]
        inner = patch[y - top : y - top + place.shape[0], x - left : x - left + place.shape[1]]
        active = place >= 0
        cells = place[active]
        phi = territories.of(n, cells)
        rival = territories.phi[cells]
        # At a cell of somebody with a pose, phi of somebody without one may be the larger: it stays below one half.
        beside = np.minimum(phi, 0.5 * np.minimum(phi / np.maximum(rival, 1e-6), 1.0))
        own = np.where(territories.owner[cells] == n, phi, beside)
        inner[active] = np.minimum(own, self._person[cells])
        return patch


def picture_cells(letterbox: Letterbox, stride: int) -> tuple[int, int]:
    """The picture's part of the network's input, (height, width) in cells."""
    height, width = letterbox.scaled_hw
    return -(-height // stride), -(-width // stride)


def expected_iou(soft: np.ndarray) -> float:
    """Expected intersection over expected union of a soft mask's cells above 0.5, were its values probabilities."""
    inside = soft[soft > 0.5]
    sure = float(inside.sum())
    return sure / (len(inside) + float(soft.sum()) - sure) if len(inside) else 0.0


def extend_over_border(patch: np.ndarray, top: int, left: int, height: int, width: int) -> None:
    """Repeat the picture's outermost cells beyond its border, so that smoothing does not eat people cut off by it."""
    if top < 0:
        patch[:-top] = patch[-top]
    if left < 0:
        patch[:, :-left] = patch[:, -left : 1 - left]
    if (beyond := top + patch.shape[0] - height) > 0:
        patch[-beyond:] = patch[-beyond - 1]
    if (beyond := left + patch.shape[1] - width) > 0:
        patch[:, -beyond:] = patch[:, -beyond - 1 : -beyond]
