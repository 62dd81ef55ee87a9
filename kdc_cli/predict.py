"""`kdc predict`: pictures, videos and folders in; COCO results and annotated copies out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kdc_cli.arguments import add_flip_argument, add_model_arguments, fraction, load_pipeline, positive

_DESCRIPTION = """\
Find the people in pictures and videos. OUT receives
  predictions.json  an entry for each person as in COCO's result files: 17 keypoints, score, box, mask (RLE)
  images.json       which picture, or frame of a video, each image_id is
  overlays/         the pictures and videos with the people drawn over them"""

_EPILOG = """\
example:
  kdc predict photo.jpg --out result
  kdc predict holiday/ clip.mp4 --out result --score-threshold 0.3

Overlays: every person has a colour; blue joints are the person's left ones, orange joints the right ones.
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "predict",
        help="find and draw the people in pictures and videos",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="IMAGE_OR_VIDEO_OR_FOLDER", help="what to look at"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder for the results; made if missing"
    )
    add_model_arguments(parser)
    add_flip_argument(parser)
    parser.add_argument("--no-overlay", action="store_true", help="write no annotated pictures and videos")
    parser.add_argument(
        "--score-threshold",
        type=fraction,
        metavar="0..1",
        help="leave out people with a lower score (default: the pipeline's)",
    )
    parser.add_argument(
        "--keypoint-threshold",
        type=fraction,
        default=0.2,
        metavar="0..1",
        help="draw no joint with a lower score (default: %(default)s); the results keep all of them",
    )
    parser.add_argument(
        "--max-people",
        type=positive,
        default=100,
        metavar="N",
        help="at most so many in a picture (default: %(default)s)",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Predict. Returns 1 where some inputs could not be read. Raises ModelLoadError, CommandError, OSError."""
    from kdc_cli.errors import CommandError
    from kdc_cli.inputs import find_inputs
    from kdc_cli.prediction import Prediction
    from kdc_core.pipeline import PipelineOptions

    inputs = find_inputs(args.inputs)
    chosen = {} if args.score_threshold is None else {"person_threshold": args.score_threshold}
    pipeline = load_pipeline(args, PipelineOptions(max_people=args.max_people, **chosen))
    if not inputs.images and not inputs.videos:
        # Before anything is written: a mistyped name must not empty earlier results.
        raise CommandError("; ".join(inputs.problems))
    overlays = (args.out / "overlays").resolve()
    if not args.no_overlay and any(overlays in path.resolve().parents for path in (*inputs.images, *inputs.videos)):
        raise CommandError(f"the inputs lie in {overlays}, where the overlays go: choose another --out")
    args.out.mkdir(parents=True, exist_ok=True)
    prediction = Prediction(pipeline, args.out, not args.no_overlay, args.keypoint_threshold)
    try:
        prediction.process(inputs)
        prediction.write_results()
    except BaseException:
        # What was found before Ctrl-C or a fault is worth keeping, but not worth an earlier call's results.
        prediction.write_partial_results()
        raise
    finally:
        pipeline.close()
    return prediction.report()
