"""`kdc masks`: outline the people whom nobody outlined."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kdc_cli.arguments import positive, refuse_to_replace
from kdc_cli.errors import CommandError

_DESCRIPTION = """\
Make masks for the annotated people who have none, from their boxes and keypoints: MobileSAM's decoder
learns the true masks among the annotations first, then outlines everybody else. What it writes is what a
training configuration's pseudo_masks takes: masks by annotation id, each with an estimate of its IoU. On a
CPU core a picture takes about half a second. Needs PyTorch: pip install -e '.[train]'"""

_EPILOG = """\
example:
  kdc masks --sam mobile_sam.pt --annotations people.json --images people --out people_masks.json
  kdc masks --sam mobile_sam.pt --annotations a.json b.json --images a b --out a_m.json b_m.json --save t.pt
  kdc masks --taught t.pt --annotations c.json --images c --out c_masks.json

mobile_sam.pt is MobileSAM's published checkpoint (docs/training.md says where it is).
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "masks", help="make masks for annotated people who have none", description=_DESCRIPTION, epilog=_EPILOG
    )
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--sam", type=Path, metavar="FILE.pt", help="MobileSAM's checkpoint, to be taught")
    network.add_argument("--taught", type=Path, metavar="FILE.pt", help="what --save wrote; learns nothing more")
    parser.add_argument("--annotations", required=True, type=Path, nargs="+", metavar="FILE.json", help="COCO's format")
    parser.add_argument("--images", required=True, type=Path, nargs="+", metavar="DIR", help="one for each of them")
    parser.add_argument("--out", required=True, type=Path, nargs="+", metavar="FILE.json", help="one for each of them")
    parser.add_argument(
        "--also", type=Path, nargs="+", default=[], metavar="FILE.json",
        help="masks made otherwise, a file for each of the annotations: of two for a person the better estimate stays",
    )  # fmt: skip
    parser.add_argument(
        "--checked-by", type=Path, metavar="FILE.onnx",
        help="a trained network: masks in which it sees nobody are left out (statues, drawings, wrong boxes)",
    )  # fmt: skip
    parser.add_argument("--save", type=Path, metavar="FILE.pt", help="keep the taught network")
    parser.add_argument(
        "--epochs", type=positive, default=3, metavar="N", help="passes over the outlined people (default: %(default)s)"
    )
    parser.add_argument(
        "--long-side", type=positive, default=768, metavar="PX",
        help="of the pictures as the network sees them; 1024 is slower and finer (default: %(default)s)",
    )  # fmt: skip
    return parser


def run(args: argparse.Namespace) -> None:
    """Teach and outline.

    Raises FileNotFoundError, CheckpointError, AnnotationError, CommandError, ModelLoadError.
    """
    from tqdm import tqdm

    from kdc_model.data.boxes import doubted, judging_pipeline
    from kdc_model.data.coco import load_records, read_pseudo_masks
    from kdc_model.data.dataset import read_image
    from kdc_model.teacher.mobile_sam import MobileSam
    from kdc_model.teacher.person_masks import PersonMasks, TuneOptions, make_masks, tune

    if not len(args.annotations) == len(args.images) == len(args.out):
        raise CommandError("--annotations, --images and --out need as many entries each")
    if args.also and len(args.also) != len(args.annotations):
        raise CommandError("--also needs as many entries as --annotations, or none")
    refuse_to_replace(args.out, [*args.annotations, *args.also, *filter(None, [args.sam, args.taught, args.save])])
    if args.taught and args.save:
        raise CommandError("--save is for a network taught now, with --sam")
    if args.taught:
        network = PersonMasks.load(args.taught)
    else:
        network = PersonMasks(MobileSam.load(args.sam), args.long_side).eval()
    data = [load_records(file, images) for file, images in zip(args.annotations, args.images)]
    others = [read_pseudo_masks(file) for file in args.also] or [{} for _ in data]
    learnt = {}
    if args.sam:
        try:
            learnt = tune(network, [r for records in data for r in records], TuneOptions(epochs=args.epochs))
        except ValueError as error:
            raise CommandError(str(error)) from error
        if args.save:
            network.save(args.save)
    seeing = judging_pipeline(args.checked_by) if args.checked_by else None
    for out, records, other in zip(args.out, data, others):
        made: dict[str, Any] = dict(other)
        for record in tqdm(records, unit="picture", desc=out.name):
            masks = make_masks(network, record)
            for number in doubted(masks, seeing(read_image(record)).people) if seeing and masks else ():
                del masks[number]
            for number, mask in masks.items():
                if mask["quality"] >= made.get(str(number), mask)["quality"]:
                    made[str(number)] = mask
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"note": "machine-made, not ground truth", "taught": learnt, "masks": made}))
        print(f"{len(made)} masks in {out}")
