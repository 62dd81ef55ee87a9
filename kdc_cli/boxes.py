"""`kdc boxes`: photos of people with nothing but boxes, made ready for `kdc masks` and for training."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc_cli.arguments import positive
from kdc_cli.errors import CommandError

if TYPE_CHECKING:
    import numpy as np

    from kdc_core.pipeline import Pipeline

_DESCRIPTION = """\
Make COCO annotations of photos whose people have nothing but a box (YOLO's label files), by what a trained
network sees in them: boxes of crowds, and people whom the boxes leave out, count in no loss. `kdc masks`
then outlines the others. Photos that were squashed to a square get the shape back at which the network is
surest of people. About a tenth of a second a photo, with --squashed half a second.
With --nobody the photos show no people and need no labels: what a network takes for people there (animals,
statues, clothes) it unlearns."""

_EPILOG = """\
example:
  kdc boxes --images train/images --labels train/labels --squashed --out boxed
  kdc masks --taught taught.pt --annotations boxed/annotations.json --images boxed/images \\
            --checked-by weights/kdc_mobile.onnx --out boxed/masks.json
  (training configuration: train_annotations, train_images and pseudo_masks name these three)
  kdc boxes --nobody --images animals --out animals
"""
# To tell which shape a photo had, a small picture of it will do, and every inkling of a person counts.
_SHAPE_PX, _SHAPE_SCORE = 352, 0.05
_JPEG_QUALITY = 93


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "boxes", help="make annotations of photos with boxes only", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("--images", required=True, type=Path, metavar="DIR", help="the photos")
    people = parser.add_mutually_exclusive_group(required=True)
    people.add_argument("--labels", type=Path, metavar="DIR", help="a .txt for each photo, named alike")
    people.add_argument("--nobody", action="store_true", help="the photos show nobody")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="gets annotations.json, and images/")
    parser.add_argument("--model", type=Path, metavar="FILE.onnx", help="the network (default: the shipped one)")
    parser.add_argument(
        "--person-class", type=int, default=0, metavar="N", help="people's class in the labels (default: 0)"
    )
    parser.add_argument("--squashed", action="store_true", help="the photos were brought to another shape than theirs")
    parser.add_argument(
        "--long-side", type=positive, default=416, metavar="PX",
        help="of photos that are given their shape back (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--most", type=positive, default=40, metavar="N", help="leave out photos with more boxes (default: %(default)s)"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Annotate. Raises CommandError, FileNotFoundError, AnnotationError, UnreadableImageError, ModelLoadError."""
    import cv2
    from tqdm import tqdm

    from kdc_core.images import IMAGE_SUFFIXES, read_rgb
    from kdc_core.model_path import default_model_path
    from kdc_model.data.boxes import annotate, judging_pipeline, likely_aspect, read_yolo

    if not args.images.is_dir():
        raise CommandError(f"{args.images}: no such folder")
    files = sorted(f for f in args.images.iterdir() if f.is_file() and f.suffix.lower() in IMAGE_SUFFIXES)
    if args.nobody:
        _write_nobody(args, files)
        return
    labels = [args.labels / f"{f.stem}.txt" for f in files]
    if not any(label.is_file() for label in labels):
        raise CommandError(f"{args.labels} has a label file for none of the {len(files)} photos in {args.images}")
    _refuse_to_overwrite(args.out)
    model = args.model or default_model_path()
    seeing = judging_pipeline(model)
    shaping = judging_pipeline(model, _SHAPE_PX, _SHAPE_SCORE) if args.squashed else None
    made = args.out / "images"
    if args.squashed:
        if made.resolve() == args.images.resolve():
            raise CommandError(f"--squashed would write over the photos in {args.images}: choose another --out")
        for stem, count in Counter(file.stem for file in files).items():
            if count > 1:
                raise CommandError(f"{args.images} has {count} photos named {stem}: both would become {stem}.jpg")
    (made if args.squashed else args.out).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for file, label in zip(tqdm(files, unit="photo"), labels):
        if not label.is_file():
            continue
        parts = read_yolo(label, args.person_class)
        if not 0 < len(parts) <= args.most:
            continue
        image = read_rgb(file, upright=False)  # as in training
        name = file.name
        if shaping is not None:
            aspect = likely_aspect(lambda a: _sureness(shaping, _shaped(image, a, _SHAPE_PX)))  # noqa: B023
            image, name = _shaped(image, aspect, args.long_side), f"{file.stem}.jpg"
            coded = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            if not cv2.imwrite(str(made / name), coded, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
                raise CommandError(f"{made / name} cannot be written")
        height, width = image.shape[:2]
        number = len(images) + 1
        boxes = parts * (width, height, width, height)
        annotations += annotate(boxes.tolist(), seeing(image).people, number, len(annotations) + 1)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    if not images:
        raise CommandError(f"none of the photos shows 1 to {args.most} people of class {args.person_class}")
    _write(args.out, images, annotations)
    crowds = sum(annotation["iscrowd"] for annotation in annotations)
    print(
        f"{len(images)} photos, {len(annotations) - crowds} people, {crowds} places that count in no loss: "
        f"{args.out / 'annotations.json'}" + (f", {made}" if args.squashed else "")
    )


def _write_nobody(args: argparse.Namespace, files: list[Path]) -> None:
    """Photos without annotations: all of each is background."""
    from tqdm import tqdm

    from kdc_core.images import read_rgb

    if args.squashed:
        raise CommandError("--squashed goes by the people in a photo: not with --nobody")
    if not files:
        raise CommandError(f"{args.images} has no photos")
    _refuse_to_overwrite(args.out)
    images: list[dict[str, Any]] = []
    for number, file in enumerate(tqdm(files, unit="photo"), 1):
        height, width = read_rgb(file, upright=False).shape[:2]
        images.append({"id": number, "file_name": file.name, "width": width, "height": height})
    args.out.mkdir(parents=True, exist_ok=True)
    _write(args.out, images, [])
    print(f"{len(images)} photos that show nobody: {args.out / 'annotations.json'}")


def _refuse_to_overwrite(out: Path) -> None:
    if (out / "annotations.json").exists():
        raise CommandError(f"{out / 'annotations.json'} exists already: choose another folder, or remove it")


def _write(out: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (out / "annotations.json").write_text(json.dumps(content))


def _sureness(pipeline: Pipeline, image: np.ndarray) -> float:
    return float(pipeline(image).people.scores.sum())


def _shaped(image: np.ndarray, aspect: float, long_side: int) -> np.ndarray:
    import cv2

    width, height = (long_side, long_side / aspect) if aspect >= 1 else (long_side * aspect, long_side)
    return cv2.resize(image, (round(width), round(height)), interpolation=cv2.INTER_AREA)
