"""Colours as evidence: they decide where motion cannot, and never overrule a clear case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdc_core.appearance import SIZE
from kdc_core.tracking import Tracker, TrackerOptions
from kdc_core.tracking.options import SURE_SCORE
from kdc_core.types import People
from tests.tracking.standing import people

DT = 1 / 10
ORANGE, NAVY, NONE = 5, 40, -1  # the bin that holds all of the colour; none: too little seen


def dressed(who: People, *bins: int) -> People:
    looks = np.zeros((len(who), SIZE), np.uint8)
    for i, b in enumerate(bins):
        if b >= 0:
            looks[i, b] = 255
    return replace(who, appearance=looks)


def meet_and_part(colours: tuple[int, int] | None, swapped: bool, gain: float = 3.0) -> list[int]:
    """Two people walk towards each other, vanish behind a pillar for 0.6 s, and are back on either side of it, each
    where she would be if she had walked on, or, `swapped`, if both had turned round. The ids before and after, of
    whoever wears the first and the second colour."""
    tracker = Tracker(TrackerOptions(appearance_gain=gain))

    def show(t: float, first_x: float, second_x: float) -> list[int]:
        who = people({"x": first_x, "y": 100}, {"x": second_x, "y": 100})
        return tracker.update(dressed(who, *colours) if colours else who, t).ids.tolist()

    for i in range(15):
        ids = show(i * DT, 100 + 6 * i, 340 - 6 * i)
    for i in range(15, 21):
        tracker.update(People.empty(), i * DT)
    after = (100 + 6 * 21, 340 - 6 * 21)  # 226, 214: they have just passed each other
    first, second = (after[1] - 20, after[0] + 20) if swapped else (after[0] + 20, after[1] - 20)
    return ids + show(21 * DT, first, second)


@pytest.mark.parametrize("swapped", [False, True])
def test_colours_decide_who_is_who_behind_a_pillar(swapped: bool) -> None:
    assert meet_and_part((ORANGE, NAVY), swapped) == [1, 2, 1, 2]


@pytest.mark.parametrize("colours", [None, (NONE, NONE), (ORANGE, NONE), (ORANGE, ORANGE)])
def test_without_colours_or_with_the_same_ones_motion_decides(colours: tuple[int, int] | None) -> None:
    assert meet_and_part(colours, swapped=False) == meet_and_part(None, swapped=False) == [1, 2, 1, 2]
    assert meet_and_part(colours, swapped=True) == meet_and_part(None, swapped=True) == [1, 2, 2, 1]


def test_a_gain_of_zero_does_not_look_at_colours() -> None:
    assert meet_and_part((ORANGE, NAVY), swapped=True, gain=0.0) == [1, 2, 2, 1]


def test_light_that_changes_for_all_costs_nobody_the_id() -> None:
    tracker = Tracker()
    for i in range(30):
        bins = (ORANGE, NAVY) if i < 15 else (50, 60)
        who = people({"x": 100 + 3 * i, "y": 100}, {"x": 300, "y": 120})
        assert tracker.update(dressed(who, *bins), i * DT).ids.tolist() == [1, 2]


def test_one_frame_of_another_colour_is_not_learned() -> None:
    """A mask that takes in whoever is in front for a frame: afterwards the old colours still decide."""
    tracker = Tracker()
    for i in range(15):
        colour = NAVY if i == 12 else ORANGE
        tracker.update(dressed(people({"x": 100, "y": 100}), colour), i * DT)
    tracker.update(People.empty(), 15 * DT)
    # Two are as near: one in orange, one in navy.
    both = dressed(people({"x": 112, "y": 100}, {"x": 88, "y": 100}), NAVY, ORANGE)
    assert tracker.update(both, 16 * DT).ids.tolist() == [2, 1]


def test_somebody_in_other_clothes_does_not_come_back_as_her() -> None:
    for colour, same in ((ORANGE, True), (NONE, True), (NAVY, False)):
        tracker = Tracker(TrackerOptions(max_gap_s=100))
        for i in range(20):
            tracker.update(dressed(people({"x": 100 + 6 * i, "y": 100}), ORANGE), i * DT)
        tracker.update(People.empty(), 20 * DT)
        tracker.update(People.empty(), 35 * DT)
        back = tracker.update(dressed(people({"x": 230, "y": 100}), colour), 40 * DT)
        assert (back.ids.tolist() == [1]) is same
        assert tracker.counts.reentries == int(same)


def test_colours_of_any_length_but_the_agreed_one_are_refused() -> None:
    with pytest.raises(ValueError, match="appearance"):
        replace(people({"x": 0, "y": 0}), appearance=np.zeros((1, 5), np.uint8))
    with pytest.raises(TypeError, match="appearance"):
        replace(people({"x": 0, "y": 0}), appearance=np.zeros((1, SIZE), np.float32))


def test_two_photographed_women_who_cross_keep_their_ids(shipped_model: Path) -> None:
    """The demonstration's first crossing with the network's own poses and masks, at its 8 frames a second and at half
    of that: for some frames one of the two is hidden, and the other's pose borrows her joints."""
    pytest.importorskip("skimage")
    pytest.importorskip("matplotlib")
    from kdc_core.pipeline import Pipeline, PipelineOptions
    from kdc_replay.demo_scene import scene

    pipeline = Pipeline.load(shipped_model, options=PipelineOptions(appearance=True))
    frames = range(8, 36)
    found = {i: pipeline(scene.image(i)).people for i in frames}
    truths = {i: scene.truth(i).people for i in frames}
    for step, first in ((1, 8), (2, 8), (2, 9)):
        tracker = Tracker(TrackerOptions(high_score=SURE_SCORE))
        ids: dict[int, set[int]] = {1: set(), 3: set()}  # labels of the two in the scene's truth
        for i in range(first, 36, step):
            tracked = tracker.update(found[i], i / scene.FPS)
            for n in np.flatnonzero(~tracked.duplicates & (found[i].scores >= SURE_SCORE)):
                covered = np.bincount(truths[i].mask_labels[found[i].mask(n)], minlength=4)
                owner = int(covered.argmax())
                if owner in ids and covered[owner] > 0.6 * covered.sum():  # else a mask of both
                    ids[owner].add(int(tracked.ids[n]))
        assert [len(i) for i in ids.values()] == [1, 1], (step, first, ids)
        assert ids[1] != ids[3]
