"""The losses of keypoints, displacements and person pixels on small cases made by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from kdc_core.skeleton import NUM_KEYPOINTS
from kdc_model.data.dataset import Batch
from kdc_model.losses import LossWeights, heatmap_loss, person_loss
from kdc_model.network import MASK_MODES
from tests.model.loss_cases import (
    CELLS,
    EYE,
    NOBODY,
    NOSE,
    ONE,
    RADIUS,
    SIDE,
    STRIDE,
    TWO,
    batch_of,
    fields_of,
    gradient,
    losses,
    truth,
)


def test_every_term_has_a_weight():
    names = set(vars(LossWeights()))
    for mode in MASK_MODES:
        assert set(losses(fields_of(batch_of(ONE), mode), batch_of(ONE), mode)) == names


def test_heatmap_is_cross_entropy_over_all_cells():
    batch = batch_of(ONE)
    positive, total = len(batch.disk_index), NUM_KEYPOINTS * CELLS**2
    c = torch.tensor(-1.5)
    expected = (positive * softplus(-c) + (total - positive) * softplus(c)) / total
    loss = losses(fields_of(batch, heatmap=-1.5), batch)["heatmap"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_heatmap_leaves_ignored_cells_out_but_keeps_disks():
    region = np.zeros((SIDE, SIDE), bool)
    region[:, :32] = True  # half of the picture, the keypoints in it
    batch = batch_of(truth([{NOSE: (20.0, 20.0), EYE: (26.0, 16.0)}], keypoint_ignore=region))
    fields = fields_of(batch, heatmap=0.7)
    positive = len(batch.disk_index)
    outside = (batch.disk_index[:, 3] >= CELLS // 2).sum().item()
    negative = NUM_KEYPOINTS * CELLS**2 // 2 - outside
    c = torch.tensor(0.7)
    expected = (positive * softplus(-c) + negative * softplus(c)) / (positive + negative)
    loss = losses(fields, batch)["heatmap"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    moved = gradient(loss, fields.heatmap)[0] != 0
    assert moved[:, :, CELLS // 2 :].all()
    assert moved[:, :, : CELLS // 2].sum() == positive - outside


def test_offset_is_l1_over_the_disks_in_radii():
    batch = batch_of(ONE)
    fields = fields_of(batch, offset=1.0)
    loss = losses(fields, batch)["offset"]
    expected = np.abs(1.0 - batch.disk_offset.numpy()).sum(1).mean() / RADIUS
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    moved = gradient(loss, fields.offset)[0].abs().sum(1) > 0
    cells = batch.disk_index[:, 1:].tolist()
    assert sorted(moved.nonzero().tolist()) == sorted(cells)


def test_displacement_is_l1_where_both_ends_are_labelled():
    batch = batch_of(ONE)
    fields = fields_of(batch)
    loss = losses(fields, batch)["displacement"]
    expected = np.abs(batch.edge_offset.numpy()).sum(1).mean() / RADIUS
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    moved = gradient(loss, fields.displacement)[0].abs().sum((1, 2, 3)) > 0
    assert moved.sum() == 2  # nose to left eye, and back


def test_every_disk_counts_alike_in_its_own_radius():
    small, large = 6.0, 14.0
    batch = batch_of(TWO)
    cells = batch.disk_offset
    left = batch.disk_index[:, 3] < CELLS // 2
    batch.disk_radius_px = torch.where(left, small, large)
    far = batch.edge_index[:, 3] < CELLS // 2
    batch.edge_radius_px = torch.where(far, small, large)
    terms = losses(fields_of(batch), batch)
    l1 = cells.abs().sum(1)
    weight = torch.where(left, small**-2, large**-2)
    expected = (l1 * weight * torch.where(left, 1 / small, 1 / large)).sum() / weight.sum()
    assert terms["offset"].item() == pytest.approx(expected.item(), rel=1e-5)
    edges = batch.edge_offset.abs().sum(1) * torch.where(far, 1 / small, 1 / large)
    assert terms["displacement"].item() == pytest.approx(edges.mean().item(), rel=1e-5)


def test_missing_keypoint_adds_no_loss_and_no_gradient():
    # The same person with and without its eye; the poison in the missing one's place must not come out.
    both, without = batch_of(ONE), batch_of(truth([{NOSE: (20.0, 20.0)}], [np.s_[8:40, 8:32]]))
    fields = fields_of(without, "bank", offset=1.0)
    terms = losses(fields, without, "bank")
    assert all(math.isfinite(t.item()) for t in terms.values())
    assert not gradient(terms["offset"], fields.offset)[0, EYE].any()
    assert terms["displacement"].item() == 0
    assert not gradient(terms["displacement"], fields.displacement).any()
    bank = gradient(terms["embedding"], fields.embedding)[0].unflatten(0, (NUM_KEYPOINTS, 2))
    assert bank[NOSE].any() and not bank[[k for k in range(NUM_KEYPOINTS) if k != NOSE]].any()
    # Averages are over what is there: the nose's own offsets count as much as alone.
    nose = both.disk_index[:, 1] == NOSE
    expected = (1.0 - both.disk_offset[nose]).abs().sum(1).mean() / RADIUS
    assert terms["offset"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_gaussian_heatmap_falls_off_in_the_disk():
    """KDC Eq. 3: 1 at the keypoint, exp(-1 / (2 sigma^2)) at the disk's border, 0 outside."""
    batch = batch_of(ONE)
    sigma, logit = 0.5, 0.3
    target = torch.exp(-(batch.disk_offset**2).sum(1) / (2 * (sigma * RADIUS) ** 2))
    c = torch.tensor(logit)
    inside = (target * softplus(-c) + (1 - target) * softplus(c)).sum()
    total = NUM_KEYPOINTS * CELLS**2
    expected = (inside + (total - len(target)) * softplus(c)) / total
    loss = heatmap_loss(fields_of(batch, heatmap=logit).heatmap, batch, sigma)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    # The disks count in ignored regions, too.
    everywhere = np.ones((SIDE, SIDE), bool)
    ignored = batch_of(truth([{NOSE: (20.0, 20.0), EYE: (26.0, 16.0)}], keypoint_ignore=everywhere))
    loss = heatmap_loss(fields_of(ignored, heatmap=logit).heatmap, ignored, sigma)
    assert loss.item() == pytest.approx((inside / len(target)).item(), rel=1e-5)


def test_balanced_person_term_counts_small_people_more():
    small, large = np.s_[8:24, 4:12], np.s_[4:60, 24:64]  # 8 and 140 cells
    batch = batch_of(truth([{NOSE: (8.0, 12.0)}, {NOSE: (40.0, 20.0)}], [small, large]))
    logits = fields_of(batch, person=0.4).person
    moved = gradient(person_loss(logits, batch, STRIDE, 0.5), logits)[0].abs()
    plain = gradient(person_loss(logits, batch, STRIDE), logits)[0].abs()
    weight = moved / plain
    assert weight[3, 1].item() == pytest.approx(6.0)  # (600 / 8)^0.5 = 8.7, and no more than 6
    assert weight[10, 10].item() == pytest.approx((600 / 140) ** 0.5, rel=1e-5)
    assert weight[1:7, 0:4].min() == pytest.approx(6.0)  # the background around counts as much
    assert weight[15, 0] == pytest.approx(1.0)
    assert (weight >= 1).all()
    assert torch.equal(gradient(person_loss(logits, batch, STRIDE, 0.0), logits)[0].abs(), plain)


def test_person_is_cross_entropy_over_certain_cells():
    uncertain = np.zeros((SIDE, SIDE), bool)
    uncertain[:, 48:] = True
    half = [np.s_[8:40, 8:30]]  # its right column of cells is covered by half
    batch = batch_of(truth([{NOSE: (20.0, 20.0)}], half, mask_ignore=uncertain))
    fields = fields_of(batch, person=0.4)
    loss = losses(fields, batch)["person"]
    cover = batch.person[0, :, :12]
    assert set(cover.unique().tolist()) == {0.0, 0.5, 1.0}
    c = torch.tensor(0.4)
    expected = (cover * softplus(-c) + (1 - cover) * softplus(c)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not gradient(loss, fields.person)[0, :, 12:].any()


@pytest.mark.parametrize("mode", MASK_MODES)
def test_pictures_without_people_train_as_negatives(mode):
    batch = batch_of(NOBODY, NOBODY)
    fields = fields_of(batch, mode)
    terms = losses(fields, batch, mode)
    # Every cell says "less": none is skipped.
    assert (gradient(terms["heatmap"], fields.heatmap) > 0).all()
    assert (gradient(terms["person"], fields.person) > 0).all()
    assert terms["heatmap"].item() == pytest.approx(math.log(2))
    assert terms["person"].item() == pytest.approx(math.log(2))
    for name in ("offset", "displacement", "embedding", "separation", "sigma"):
        assert terms[name].item() == 0
        terms[name].backward(retain_graph=True)  # a zero that still depends on the network


def test_batch_pools_cells_and_people_and_not_pictures():
    region = np.zeros((SIDE, SIDE), bool)
    region[:, 16:] = True
    small = truth([{NOSE: (8.0, 20.0)}], [np.s_[8:40, 0:16]], keypoint_ignore=region, mask_ignore=region)
    singles = [batch_of(TWO), batch_of(small)]
    both = batch_of(TWO, small)
    for mode in MASK_MODES:
        values = {"heatmap": 0.3, "offset": 2.0, "displacement": 3.0, "person": -0.4, "log_sigma": 2.2}
        parts = [losses(fields_of(b, mode, **values), b, mode) for b in singles]
        together = losses(fields_of(both, mode, **values), both, mode)
        counts = {
            "heatmap": [NUM_KEYPOINTS * CELLS**2, NUM_KEYPOINTS * CELLS * 4 + extra_disk_cells(singles[1])],
            "offset": [len(b.disk_index) for b in singles],
            "displacement": [len(b.edge_index) for b in singles],
            "person": [int(b.person_valid.sum()) for b in singles],
        }
        for name, value in together.items():
            weight = np.array(counts.get(name, [2, 1]), float)  # two people in the one, one in the other
            expected = np.average([p[name].item() for p in parts], weights=weight)
            assert value.item() == pytest.approx(expected, rel=1e-4, abs=1e-7), (mode, name)


def extra_disk_cells(batch: Batch) -> int:
    """Disk cells inside the ignored region, which count for their own type."""
    b, _, row, col = batch.disk_index.unbind(1)
    return int((~batch.heatmap_valid[b, row, col]).sum())
