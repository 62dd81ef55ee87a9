"""The losses of the mask fields: embedding, separation (Lovasz hinge) and sigma, in the three modes."""

import math

import numpy as np
import pytest
import torch

from kdc_core.geometry import cell_centres_xy
from kdc_model.losses import lovasz_hinge
from kdc_model.network import MASK_MODES
from tests.model.loss_cases import (
    CELLS,
    NOBODY,
    NOSE,
    ONE,
    SHOULDER,
    SIDE,
    STRIDE,
    TWO,
    batch_of,
    fields_of,
    gradient,
    ideal,
    losses,
    truth,
)


@pytest.mark.parametrize("mode", MASK_MODES)
def test_person_without_mask_adds_no_mask_loss(mode):
    box = np.zeros((SIDE, SIDE), bool)
    box[8:40, 8:32] = True
    batch = batch_of(truth([{NOSE: (20.0, 20.0), SHOULDER: (16.0, 24.0)}], [None], mask_ignore=box))
    fields = fields_of(batch, mode)
    terms = losses(fields, batch, mode)
    for name in ("embedding", "separation", "sigma"):
        assert terms[name].item() == 0
        assert not gradient(terms[name], fields.embedding).any()
        assert not gradient(terms[name], fields.log_sigma).any()
    certain = gradient(terms["person"], fields.person)[0] != 0
    assert (certain == batch.person_valid[0]).all() and not certain[2:10, 2:8].any()
    assert terms["offset"].item() > 0  # its keypoints count


def jaccard_loss_extension(logits: np.ndarray, labels: np.ndarray) -> float:
    """Lovasz extension of 1 - IoU at the hinge errors, by definition: a sum over growing mistakes."""
    errors = 1 - logits * np.where(labels, 1, -1)
    total, previous, wrong = 0.0, 0.0, np.zeros(len(labels), bool)
    for i in np.argsort(-errors, kind="stable"):
        wrong[i] = True
        current = wrong.sum() / (labels | wrong).sum()
        total += max(errors[i], 0.0) * (current - previous)
        previous = current
    return total


def test_lovasz_hinge_against_its_definition():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        for _ in range(10):
            labels = rng.random(size) < 0.5
            labels[rng.integers(size)] = True
            logits = rng.normal(0, 1.5, size).astype(np.float32)
            loss = lovasz_hinge(torch.from_numpy(logits), torch.from_numpy(labels))
            assert loss.item() == pytest.approx(jaccard_loss_extension(logits, labels), abs=1e-5)


def test_lovasz_hinge_is_one_minus_iou_for_hard_answers():
    labels = torch.tensor([1, 1, 1, 0, 0, 0]).bool()
    answer = torch.tensor([1, 1, -1, 1, -1, -1.0])  # IoU 2 / 4; a mistake's hinge error is 2
    assert lovasz_hinge(answer, labels).item() == pytest.approx(2 * (1 - 2 / 4))
    assert lovasz_hinge(labels * 2.0 - 1, labels).item() == 0


@pytest.mark.parametrize("mode", MASK_MODES)
def test_ideal_fields_cost_nothing(mode):
    batch = batch_of(TWO, NOBODY)
    fields = ideal(batch, TWO, NOBODY, mask_mode=mode)
    terms = losses(fields, batch, mode)
    for name, value in terms.items():
        if name == "sigma" and mode == "bank":
            continue  # the bank form's sigma has a goal of its own, checked below
        assert value.item() < 1e-3, name


def test_bank_sigma_wants_a_fifth_of_the_persons_size():
    batch = batch_of(ONE)  # 8 x 6 cells: the extent between outermost cell centres is 28 x 20 pixels
    goal = 0.2 * math.sqrt(28 * 20)
    fields = fields_of(batch, "bank", log_sigma=math.log(goal) + 0.5)
    assert losses(fields, batch, "bank")["sigma"].item() == pytest.approx(0.5, rel=1e-4)


def test_mask_terms_by_hand():
    batch = batch_of(ONE)
    inside = batch.instance[0] == 1
    centres = torch.from_numpy(cell_centres_xy(CELLS, CELLS, STRIDE))
    goal = torch.tensor([19.5, 23.5])  # no shoulder: the mean of pixels 8..31 and 8..39
    size = math.sqrt(28 * 20)
    fields = fields_of(batch, log_sigma=2.0)
    terms = losses(fields, batch, "static")
    pull = (centres[:, inside] - goal[:, None]).abs().sum(0).mean() / size
    assert terms["embedding"].item() == pytest.approx(pull.item(), rel=1e-5)
    phi = torch.exp(-((centres[:, inside] - goal[:, None]) ** 2).sum(0) / (2 * math.exp(2.0) ** 2))
    hinge = jaccard_loss_extension((2 * phi - 1).numpy(), np.ones(int(inside.sum()), bool))
    assert terms["separation"].item() == pytest.approx(hinge, rel=1e-4)
    assert terms["sigma"].item() == 0  # the same everywhere
    # Dynamic: the centre is the embeddings' own mean, here the cells'.
    dynamic = losses(fields, batch, "embedding")["embedding"].item()
    mean = centres[:, inside].mean(1)
    pull = (centres[:, inside] - mean[:, None]).abs().sum(0).mean() / size
    assert dynamic == pytest.approx(pull.item(), rel=1e-5)


def test_sigma_term_is_the_variance_of_log_sigma():
    batch = batch_of(ONE)
    fields = fields_of(batch)
    with torch.no_grad():
        fields.log_sigma[0] = torch.arange(CELLS) * 0.1
    values = (torch.arange(2, 8) * 0.1).repeat(8)  # columns 2..7
    for mode in ("static", "embedding"):
        loss = losses(fields, batch, mode)["sigma"]
        assert loss.item() == pytest.approx(values.var(unbiased=False).item(), rel=1e-4)


@pytest.mark.parametrize("mode", MASK_MODES)
def test_gradient_leads_home(mode):
    batch = batch_of(TWO)
    fields = fields_of(batch, mode, log_sigma=2.0)
    loss = losses(fields, batch, mode)["embedding"]
    step = -gradient(loss, fields.embedding)[0].unflatten(0, (-1, 2))
    centres = torch.from_numpy(cell_centres_xy(CELLS, CELLS, STRIDE))
    for n in range(2):
        inside = batch.instance[0] == n + 1
        if mode == "bank":
            goals = [(k, batch.keypoints_xy[0][n, k]) for k in (NOSE, SHOULDER)]
        else:
            goals = [(0, batch.centroids_xy[0][n] if mode == "static" else centres[:, inside].mean(1))]
        for channel, goal in goals:
            towards = goal[:, None] - centres[:, inside]
            away = towards.abs() > 0.1
            assert (torch.sign(step[channel][:, inside]) == torch.sign(towards))[away].all()
    assert not step[:, :, batch.instance[0] == 0].any()


@pytest.mark.parametrize("mode", ["static", "embedding"])
def test_following_the_gradient_separates_people(mode):
    batch = batch_of(TWO)
    fields = fields_of(batch, mode, log_sigma=2.5)
    leaves = [fields.embedding, fields.log_sigma]
    optimizer = torch.optim.Adam(leaves, lr=0.5)
    values = []
    for _ in range(80):
        terms = losses(fields, batch, mode)
        total = terms["separation"] + terms["embedding"] + 0.2 * terms["sigma"]
        values.append(terms["separation"].item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert values[0] > 0.3 and values[-1] < 0.05
    assert 0.5 < fields.log_sigma[0][batch.instance[0] > 0].mean() < 6  # neither collapsed nor exploded


def test_too_wide_a_sigma_shrinks_and_too_narrow_a_one_grows():
    batch = batch_of(TWO)
    for log_sigma, sign in ((4.5, 1), (1.0, -1)):
        fields = fields_of(batch, log_sigma=log_sigma)
        slope = gradient(losses(fields, batch)["separation"], fields.log_sigma)[0][batch.instance[0] > 0]
        assert (slope * sign > 0).all()
