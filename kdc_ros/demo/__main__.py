"""Play pictures to the real node over ROS 2 and look at what it answers.

  python -m kdc_ros.demo                       public-domain photographs, and a moving scene made of them
  python -m kdc_ros.demo --input holiday.jpg   a picture, several, a folder, a video or /dev/video0

The node and a fake camera run as processes of their own; the answers are recorded, drawn over the pictures
and, for the built-in pictures, compared with the people's true places. Exit code: 0 when the people were
found (with --input: when the node answered), 1 when not or when something broke, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from kdc_replay.demo_scene.photos import PhotoError
from kdc_ros.demo import pictures
from kdc_ros.demo.playlist import PlaylistError, built_in, built_in_truth, from_input
from kdc_ros.demo.processes import ProcessError
from kdc_ros.demo.report import Seen, check_answers, make_report
from kdc_ros.demo.session import SessionError, run

REPORT, VIDEO, OVERVIEW, NODE_LOG = "report.json", "demo.mp4", "overview.png", "node.log"
# Annotated pictures kept of a moving clip; all frames are in the video.
PICTURES_OF_A_MOVING_CLIP = 6


def main(args: list[str] | None = None) -> int:
    """Run the demonstration. Returns the exit code."""
    options = _arguments(args)
    # A polite kill ends the node and the camera as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        # Looked at here too, so that a wrong name is told of before anything starts.
        clips = from_input(options.input, options.seconds) if options.input else built_in()
        options.out.mkdir(parents=True, exist_ok=True)
        _remove_old(options.out)
        session = run(options.input, options.model, options.seconds, options.out / NODE_LOG, _tell)
        report = make_report(session, options.input, None if options.input else built_in_truth)
        _tell("drawing the pictures and the video")
        report["files"] = write_pictures(
            check_answers(session)[0], {c.name for c in clips if c.moving}, options.out
        )
        (options.out / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except (PlaylistError, PhotoError, ProcessError, SessionError, pictures.VideoError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(summary(report, options.out))
    return 0 if report["passed"] else 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _tell(line: str) -> None:
    print(f"  {line}", flush=True)


def _remove_old(out: Path) -> None:
    """Delete what the last run wrote, by its own account, and nothing else."""
    try:
        names = json.loads((out / REPORT).read_text())["files"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
        return
    for name in [*names, REPORT]:
        # Plain names only, should somebody have edited the report.
        if isinstance(name, str) and Path(name).name == name:
            (out / name).unlink(missing_ok=True)


def _arguments(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m kdc_ros.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--input",
        help="a picture, several (with spaces or commas between), a folder, a video or a camera device",
    )
    parser.add_argument("--model", type=Path, help="ONNX file of the network (default: the package's own)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder for the results (%(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        help="play a video or a device no longer than this (%(default)g)",
    )
    return parser.parse_args(args)


def write_pictures(seen: list[Seen], moving: set[str], out: Path) -> list[str]:
    """Annotated pictures, an overview and a video of the answers. Returns the files' names.

    moving: the clips whose frames differ. Of a picture that stands still the last answer will do.
    """
    if not seen:
        return []
    names, shown = [], []
    for clip in dict.fromkeys(s.frame.clip for s in seen):
        answers = [s.answer for s in seen if s.frame.clip == clip]
        chosen = (
            pictures.spread(len(answers), PICTURES_OF_A_MOVING_CLIP) if clip in moving else [len(answers) - 1]
        )
        for number, index in enumerate(chosen, start=1):
            shown.append(pictures.drawn(answers[index]))
            names.append(f"{clip}_{number}.png" if clip in moving else f"{clip}.png")
            pictures.save(out / names[-1], shown[-1])
    pictures.save(out / OVERVIEW, pictures.overview([shown[i] for i in pictures.spread(len(shown), 9)]))
    span_s = (seen[-1].frame.stamp_ns - seen[0].frame.stamp_ns) * 1e-9
    # At the pace at which the answers came.
    fps = min(max((len(seen) - 1) / span_s, 1.0), 60.0) if span_s > 0 else 1.0
    pictures.save_video(out / VIDEO, (pictures.drawn(s.answer) for s in seen), len(seen), fps)
    return [OVERVIEW, VIDEO, *names]


def summary(report: dict[str, Any], out: Path) -> str:
    """The report for people, a few lines."""
    latency = report["latency_ms"]
    lines = [
        f"frames    {report['frames_answered']} of {report['frames_published']} answered"
        " (the node takes the newest and skips what it has no time for)",
        f"people    {report['persons_total']} found in all frames together",
        f"latency   {latency['p50']} ms median, {latency['p95']} ms for 95 %, from camera's stamp to answer",
    ]
    for name, clip in report["clips"].items():
        if truth := clip.get("truth"):
            lines.append(
                f"{name:<14}{truth['found']} of {truth['visible']} visible people found,"
                f" mask IoU {truth['mask_iou']}, keypoints OKS {truth['oks']}, {truth['false_persons']} false,"
                f" {truth['id_switches']} id switches"
            )
    if report["files"]:
        lines += [f"pictures  {out / OVERVIEW} and beside it", f"video     {out / VIDEO}"]
    lines.append(f"report    {out / REPORT}")
    lines += [f"FAILED: {failure}" for failure in report["failures"]] or ["passed"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
