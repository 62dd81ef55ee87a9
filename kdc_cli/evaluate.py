"""`kdc evaluate`: a network against annotated pictures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kdc_cli.arguments import (
    add_flip_argument,
    add_model_arguments,
    fraction,
    load_pipeline,
    positive,
    refuse_to_replace,
)
from kdc_cli.errors import CommandError

_DESCRIPTION = """\
Score a network on annotated pictures: COCO's keypoint AP and person mask AP, and the IoU of all person
pixels; by the rules of COCO, OCHuman (people who are not annotated count as false) or CrowdPose (14 points,
no masks). Needs pycocotools (pip install -e '.[train]'), but no PyTorch."""

_EPILOG = """\
example:
  kdc evaluate --model model.onnx --images val/images --annotations val/annotations.json --out scores.json

A score means little without the data it was trained and measured on.
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate", help="score a network on annotated pictures", description=_DESCRIPTION, epilog=_EPILOG
    )
    add_model_arguments(parser)
    add_flip_argument(parser)
    parser.add_argument(
        "--images", required=True, type=Path, metavar="DIR", help="the folder of the pictures"
    )
    parser.add_argument(
        "--annotations", required=True, type=Path, metavar="FILE.json", help="COCO person keypoints and masks"
    )
    parser.add_argument(
        "--protocol",
        choices=("coco", "ochuman", "crowdpose"),
        default="coco",
        help="whose files and rules (default: %(default)s)",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE.json", help="where to write the metrics"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="also write report.md there, with plots and the worst pictures drawn (not for crowdpose)",
    )
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="the first N pictures only, for a quick look"
    )
    parser.add_argument(
        "--oracle",
        choices=("fields", "keypoints", "masks", "scores"),
        help="take these from the annotations instead of the network, to tell its errors from the decoder's: all "
        "fields, the keypoints (the masks are the network's), the mask fields (the keypoints are), or only the scores "
        "by which the people found are ranked",
    )
    parser.add_argument(
        "--score-threshold",
        type=fraction,
        default=0.01,
        metavar="0..1",
        help="least score of a person (default: %(default)s; AP wants nearly everybody)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Evaluate. Raises ModelLoadError, AnnotationError, FileNotFoundError, UnreadableImageError, CommandError."""
    if args.report and args.protocol == "crowdpose":
        raise CommandError("--report is for COCO's 17 keypoints: CrowdPose has others")
    if args.oracle and args.protocol == "crowdpose":
        raise CommandError("--oracle is for COCO's 17 keypoints: CrowdPose has no nose, which joins left and right")
    if args.oracle == "scores" and args.report:
        raise CommandError("--oracle scores ranks keypoints and masks apart: no --report")
    if args.out.is_dir():
        raise CommandError(f"--out {args.out} is a folder: name a file for the scores")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    from kdc_core.model_path import default_model_path
    from kdc_core.pipeline import PipelineOptions
    from kdc_model.evaluate import find_people, format_table, load_truth, score
    from kdc_model.protocols import PROTOCOLS

    refuse_to_replace([args.out], filter(None, [args.annotations, args.model]))
    protocol = PROTOCOLS[args.protocol]
    truth = load_truth(args.annotations, args.images, args.limit, protocol)
    pipeline = load_pipeline(args, PipelineOptions(person_threshold=args.score_threshold))
    try:
        before, rescore = None, None
        if args.oracle:
            from kdc_model.oracle import ideal_scores, with_oracle

            if args.oracle == "scores":
                rescore = ideal_scores
            else:
                pipeline, before = with_oracle(pipeline, args.oracle)
        found = find_people(pipeline, truth, progress=True, before=before)
        metrics = score(truth, [found], protocol, rescore)
        if args.report:
            from kdc_model.evaluation_report import write_report

            about = {
                "model": (args.model or default_model_path()).name,
                "backend": pipeline.backend_name,
                "annotations": f"{args.annotations.parent.name}/{args.annotations.name}, protocol {protocol.name}",
                "input": f"long side {max(pipeline.spec.input_hw)} px",
            }
            page = write_report(args.report, truth, found, metrics, pipeline, about, before)
    finally:
        pipeline.close()
    print(format_table(metrics))
    args.out.write_text(json.dumps({"protocol": protocol.name, **metrics}, indent=2) + "\n")
    if args.report:
        print(f"the report is {page}")
