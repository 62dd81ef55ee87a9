"""The report page of made runs: its figures, its independence of the network, its bytes."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("jinja2", reason="needs Jinja")
pytest.importorskip("pycocotools", reason="needs pycocotools")
pytest.importorskip("rosbags", reason="needs rosbags")
pytest.importorskip("trackeval", reason="needs TrackEval")

from kdc_core.draw import colour_of
from kdc_replay.charts import Series, Span, TimelineRow, histogram, line_chart, ticks, timeline
from kdc_replay.metrics import write_metrics
from kdc_replay.report import write_report
from kdc_replay.report_pictures import Picture
from kdc_replay.run_reader import load_run
from kdc_replay.worst_frames import worst_frames
from tests.replay.made_run import HEIGHT, WIDTH, annotation, person, write_run

FRAMES = 20
_VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """A page taken apart; fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.section = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> out of order"
        if tag == "section":
            self.section = ""

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.setdefault(self.section, []).append(data.strip())

    def text(self, section: str = "") -> str:
        return " ".join(self.texts.get(section, []))


def grey_pictures(indices: Sequence[int]) -> Mapping[int, Picture]:
    return {i: Picture(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)) for i in indices}


def walkers() -> list[list[dict[str, Any]]]:
    """Two people; one is missed in frame 8, its id changes at frame 12, and frame 15 has somebody too many."""
    people = [[person(20 + f, 20, 1), person(120 + f, 20, 2 if f < 12 else 7)] for f in range(FRAMES)]
    people[8].pop()
    people[15].append(person(75, 35, 9, score=0.2, state="TENTATIVE"))
    return people


def write_walkers(folder: Path, truth: bool) -> Path:
    write_run(folder, walkers())
    (folder / "dropped.jsonl").write_text('{"index": 99, "log_ns": 1, "reason": "encoding <odd> & \\"new\\""}\n')
    if truth:
        known = {f: [annotation(20 + f, 20, 1), annotation(120 + f, 20, 2)] for f in range(FRAMES)}
        write_metrics(load_run(folder), known)
    return folder


def page_of(folder: Path) -> Page:
    return Page(write_report(folder, grey_pictures).read_text())


def test_figures_with_annotations(tmp_path: Path) -> None:
    page = page_of(write_walkers(tmp_path / "run", truth=True))
    summary = page.text()
    assert "walk.mcap" in summary and "/camera/image_raw" in summary
    for figure in ("20 frames evaluated", "1.9 s", "at 10.0 frames/s", "1 frames dropped", "2.00 people a frame"):
        assert figure in summary, figure
    assert "4 track ids" in summary and "1 id switches" in summary
    assert 'encoding <odd> & "new"' in summary  # as text, not as markup
    accuracy = page.text("accuracy")
    assert "20 of 20 frames are annotated, with 40 persons: 1 missed, 1 found where nobody is" in accuracy
    metrics = load_run(tmp_path / "run").metrics
    assert metrics is not None
    for value in (metrics["keypoints"]["AP"], metrics["segm"]["AP"], metrics["tracking"]["hota"]):
        assert f"{value:.3f}" in accuracy
    worst = page.text("worst")
    for reason in ("1 of 2 missed", "1 found where nobody is", "id changed: 2 became 7"):
        assert reason in worst, reason
    assert [tag for tag in ("frame 8", "frame 12", "frame 15") if tag not in worst] == []


def test_without_annotations_what_looks_odd_is_shown(tmp_path: Path) -> None:
    people = [[person(20 + f, 20, 1), person(120 + f, 20, 2)] for f in range(FRAMES)]
    people[10][0] = person(20 + 10 + 25, 20, 1)  # a leap of 25 px of a size of 49
    people[14][1]["score"] = 0.3
    people[17].append(person(80, 25, 3))
    run = load_run(write_run(tmp_path / "run", people))
    found = {run.frames[w.place].index: [f.reason for f in w.findings] for w in worst_frames(run)}
    assert "id 1 leaps by 53% of its size" in found[10]
    assert found[14] == ["id 2 scores 0.30, usually 0.80"]
    assert found[17] == ["id 3 begins amid the picture (score 0.80)"]
    page = page_of(tmp_path / "run")
    assert "accuracy" not in page.texts and "id 3 begins amid the picture" in page.text("worst")


def test_it_needs_nothing_else(tmp_path: Path) -> None:
    """No address of any other file; pictures are inside, and they show the marked places."""
    folder = write_walkers(tmp_path / "run", truth=True)
    text = write_report(folder, grey_pictures).read_text()
    page = Page(text)
    names = ("src", "href", "srcset", "action", "data")
    loading = [(tag, value or "") for tag, name, value in page.attributes if name in names]
    assert loading
    assert all(tag == "img" and value.startswith("data:image/jpeg;base64,") for tag, value in loading)
    outside_pictures = re.sub(r'data:image/jpeg;base64,[^"]*', "", text)
    assert "http" not in outside_pictures and "@import" not in text and "url(" not in outside_pictures
    assert "<script" not in text
    first = base64.b64decode(loading[0][1].partition(",")[2])
    picture = cv2.imdecode(np.frombuffer(first, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.shape == (HEIGHT, WIDTH, 3)
    # Frame 8 is the first of them: somebody was missed at x 128 to 157, y 20 to 99.
    left_edge = picture[22:98, 126:131].astype(int)
    assert (left_edge[..., 2] - left_edge[..., 0] > 80).any(), "the dashed red box"
    assert "prefers-color-scheme: dark" in text


def test_the_same_run_gives_the_same_bytes_but_for_the_times(tmp_path: Path) -> None:
    pages = []
    for name, slower in (("a", "1"), ("b", "9")):
        folder = write_walkers(tmp_path / name / "run", truth=True)
        rows = (folder / "timings.csv").read_text().replace(",2.0", f",{slower}.5")
        (folder / "timings.csv").write_text(rows)
        pages.append(write_report(folder, grey_pictures).read_text())
    assert pages[0] != pages[1]
    without = [re.sub(r'<section id="timing">.*?</section>', "", page, flags=re.S) for page in pages]
    assert without[0] == without[1]


def test_stage_times(tmp_path: Path) -> None:
    folder = write_walkers(tmp_path / "run", truth=False)
    assert "inference 21.0 22.0 22.0" in page_of(folder).text("timing")
    (folder / "timings.csv").unlink()
    assert "No times were written" in page_of(folder).text("timing")


@pytest.mark.parametrize("people", [[], [[]], [[], [], []]])
def test_empty_runs(tmp_path: Path, people: list) -> None:
    folder = write_run(tmp_path / "run", people, finished=False)
    page = page_of(folder)
    assert "This run was interrupted" in page.text() and "Nobody was tracked" in page.text("tracks")
    assert ("Not one frame was evaluated" in page.text()) == (not people)
    if people:
        write_metrics(load_run(folder), {i: [] for i in range(len(people))})
        assert "none" in page_of(folder).text("accuracy")


def test_stamps_that_jump_back(tmp_path: Path) -> None:
    folder = write_walkers(tmp_path / "run", truth=True)
    lines = (folder / "frames.jsonl").read_text().splitlines()
    lines[5] = re.sub(r'"stamp_ns": \d+', '"stamp_ns": 17', lines[5])
    (folder / "frames.jsonl").write_text("\n".join(lines) + "\n")
    assert "frame (the stamps jump back)" in page_of(folder).text("people")


def test_pictures_from_the_film(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV")
    from kdc_replay.video import AnnotatedVideo

    folder = write_walkers(tmp_path / "run", truth=True)
    assert "data:image" not in write_report(folder).read_text()
    run = load_run(folder)
    with AnnotatedVideo(folder / "annotated.mp4") as video:
        for frame in run.frames:
            video.write(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), frame.people(), frame.ids, frame.time_ns)
    assert write_report(folder).read_text().count("data:image/jpeg") == len(worst_frames(run)) > 0


def test_ticks_are_round() -> None:
    assert ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(-3, 47, 5) == [0, 10, 20, 30, 40]
    assert ticks(0.0013, 0.0021, 4) == [0.0014, 0.0016, 0.0018, 0.002]


def test_charts_show_what_they_are_given() -> None:
    broken = Series("a <b>", np.arange(5.0), np.array([0, 1, np.nan, 1, 0]))
    svg = line_chart([broken, Series("c", np.arange(5.0), np.ones(5))], "x", "y")
    Page(svg)
    assert svg.count('<path class="line s0"') == 2 and svg.count('<path class="line s1"') == 1
    assert "a &lt;b&gt;" in svg
    lonely = line_chart([Series("d", np.arange(3.0), np.array([np.nan, 1, np.nan]))], "x", "y")
    assert lonely.count("<circle") == 1 and "<path" not in lonely
    spike = np.zeros(100_000)
    spike[77_777] = 5.0
    long = line_chart([Series("long", np.arange(1e5), spike)], "x", "y", y_range=(0, 5))
    assert len(long) < 60_000 and re.search(r"L[\d.]+ 10[A-Z\"]", long), "thinned out, but the spike is there"
    bars = histogram({"one": [0.1, 0.1, 0.9, 7.0], "two": []}, "score", (0.0, 1.0), bins=10)
    assert re.findall(r"one: (\d+) from ([\d.]+)", bars) == [("2", "0.1"), ("2", "0.9")]
    rows = [TimelineRow("4", colour_of(4), [Span(0, 1, "TRACKED"), Span(2, 3, "TRACKED")], [(2, "was 3")])]
    chart = timeline(rows, "seconds", (0, 4))
    assert chart.count('class="track TRACKED"') == 2 and chart.count('class="away"') == 1 and "was 3" in chart
    assert "rgb({} {} {})".format(*colour_of(4)) in chart
