"""`kdc poses`: keypoints for the people whom nobody labelled."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kdc_cli.arguments import refuse_to_replace
from kdc_cli.errors import CommandError

_DESCRIPTION = """\
Give keypoints to annotated people who have a box and none: those on which a trained network of ours and
Google's MoveNet SinglePose agree, which are right more often, and better placed, than ours alone. The file
it writes is the one it read with these keypoints added; what the two do not agree on counts in no loss. On a
CPU core a picture takes about a fifth of a second. Needs PyTorch: pip install -e '.[train]'"""

_EPILOG = """\
example:
  kdc poses --second movenet-thunder.json --annotations boxed/annotations.json --images boxed/images \\
            --out boxed/poses.json
  (training configuration: train_annotations names boxed/poses.json instead of boxed/annotations.json)

movenet-thunder.json is Google's published model for TensorFlow.js (docs/training.md says where it is).
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "poses", help="make keypoints for annotated people who have none", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument(
        "--second", required=True, type=Path, metavar="FILE.json", help="MoveNet Thunder or Lightning, its .bin beside"
    )
    parser.add_argument("--model", type=Path, metavar="FILE.onnx", help="our network (default: the shipped one)")
    parser.add_argument("--annotations", required=True, type=Path, metavar="FILE.json", help="COCO's format")
    parser.add_argument("--images", required=True, type=Path, metavar="DIR", help="their pictures")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.json", help="the annotations with keypoints")
    return parser


def run(args: argparse.Namespace) -> None:
    """Label. Raises CommandError, FileNotFoundError, AnnotationError, UnreadableImageError, ModelLoadError."""
    from tqdm import tqdm

    from kdc_core.model_path import default_model_path
    from kdc_core.skeleton import KEYPOINT_INDEX
    from kdc_model.data.coco import keypoint_names, load_records
    from kdc_model.teacher.agreed_poses import agreed_poses, seeing_pipeline
    from kdc_model.teacher.movenet_pose import SinglePose

    refuse_to_replace([args.out], [args.annotations, args.second])
    records = load_records(args.annotations, args.images)
    try:
        second = SinglePose.load(args.second)
    except ValueError as error:
        raise CommandError(str(error)) from error
    seeing = seeing_pipeline(args.model or default_model_path())
    made = {}
    for record in tqdm(records, unit="picture"):
        made.update(agreed_poses(record, seeing, second))
    data = json.loads(args.annotations.read_text())
    names = keypoint_names(args.annotations, data)
    for annotation in data["annotations"]:
        keypoints = made.get(annotation.get("id"))
        if keypoints is None:
            continue
        rows = [keypoints[KEYPOINT_INDEX[n]].round(1).tolist() if n in KEYPOINT_INDEX else [0, 0, 0] for n in names]
        annotation["keypoints"] = [number for row in rows for number in row]
        annotation["num_keypoints"] = sum(row[2] > 0 for row in rows)
        annotation["all_keypoints"] = False
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(data))
    count = sum(int((keypoints[:, 2] > 0).sum()) for keypoints in made.values())
    print(f"{count} keypoints of {len(made)} people in {args.out}")
