"""`kdc record-demo`: small bags with annotations, from the made scene, from videos or from photos."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc_cli.arguments import positive

if TYPE_CHECKING:
    import numpy as np

    from kdc_cli.inputs import Video

    # A picture, its COCO annotations (None: nothing is known), and further fields of its record.
    Recorded = tuple[np.ndarray, list[dict[str, Any]] | None, dict[str, Any]]

_DESCRIPTION = """\
Make a small ROS 2 bag to try `kdc replay` with: of the moving scene that comes with kdc (people cut out of
free photographs, whose places are known exactly), of a video, or of a folder of photos. The annotations,
where there are any, lie beside the bag as BAG.json, ready for --annotations."""

_EPILOG = """\
example:
  kdc record-demo --out walk --compressed           the scene, with its exact truth in walk.json
  kdc record-demo --out clip --input clip.mp4 --frames 100 --format sqlite3
  kdc record-demo --out photos --input val/images --annotations val/annotations.json --fps 1
  kdc replay walk --annotations walk.json --out run
"""
_FIRST_STAMP_NS = 1_700_000_000_000_000_000
_PHOTOS_PER_S = 2.0


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "record-demo",
        help="make a small bag with annotations from a scene, a video or photos",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="BAG", help="the bag's folder; must not be there yet"
    )
    parser.add_argument(
        "--input", type=Path, metavar="VIDEO_OR_FOLDER", help="a video, or a folder of photos (default: the made scene)"
    )
    parser.add_argument(
        "--annotations", type=Path, metavar="FILE.json", help="COCO annotations of the photos, found by file name"
    )
    parser.add_argument("--topic", help="the images' topic (default: /camera/image_raw, with /compressed behind it)")
    parser.add_argument(
        "--format", choices=("mcap", "sqlite3"), default="mcap", help="the bag's storage (default: %(default)s)"
    )
    parser.add_argument("--compressed", action="store_true", help="CompressedImage (JPEG) instead of Image")
    parser.add_argument(
        "--quality", type=_quality, default=90, metavar="1..100", help="of the JPEGs (default: %(default)s)"
    )
    parser.add_argument(
        "--fps",
        type=_rate,
        metavar="N",
        help=f"frames a second (default: the input's own; of photos {_PHOTOS_PER_S:g})",
    )
    parser.add_argument("--frames", type=positive, metavar="N", help="at most so many")
    return parser


def run(args: argparse.Namespace) -> None:
    """Record. Raises CommandError, BagError, UnreadableImageError, PhotoError, OSError."""
    from tqdm import tqdm

    from kdc_cli.errors import CommandError
    from kdc_replay.bag_writer import AnnotationWriter, ImageBagWriter

    if not args.out.name:
        raise CommandError(f"--out names a new folder for the bag, not {args.out}")
    beside = args.out.with_name(args.out.name + ".json")
    for path in (args.out, beside):
        if path.exists():
            raise CommandError(f"{path} exists already: choose another name, or remove it")
    pictures, fps, count = _source(args)
    if args.frames is not None:
        count = args.frames if count is None else min(count, args.frames)
    topic = args.topic or ("/camera/image_raw/compressed" if args.compressed else "/camera/image_raw")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    truth, known, written = AnnotationWriter(), False, 0
    quality = args.quality if args.compressed else None
    progress = tqdm(total=count, unit="frame", disable=None)
    try:
        with ImageBagWriter(args.out, args.format, topic, quality) as bag, progress as bar:
            for image, annotations, fields in pictures:
                if written == count:
                    break
                stamp_ns = _FIRST_STAMP_NS + round(written * 1e9 / (args.fps or fps))
                bag.write(image, stamp_ns)
                if annotations is not None:
                    truth.add(stamp_ns, image.shape[:2], annotations, **fields)
                    known = True
                written += 1
                bar.update()
    except BaseException:  # Ctrl-C, too
        # Half a bag looks like a whole one, and would be in the way of the next try.
        shutil.rmtree(args.out, ignore_errors=True)
        raise
    if known:
        truth.write(beside)
    print(f"{written} frames on {topic}: {args.out}" + (f"; annotations: {beside}" if known else ""))


def _source(args: argparse.Namespace) -> tuple[Iterator[Recorded], float, int | None]:
    """What to record, its frames a second, and how many there are (None: a video's header may be wrong about it)."""
    from kdc_cli.errors import CommandError

    source: Path | None = args.input
    if args.annotations is not None and (source is None or not source.is_dir()):
        raise CommandError("--annotations goes with a folder of photos: the scene brings its own, a video has none")
    if source is None:
        from kdc_replay.demo_scene import scene

        return _scene_frames(), scene.FPS, scene.FRAMES
    if source.is_dir():
        return _photos(source, args.annotations)
    if not source.is_file():
        raise CommandError(f"{source}: no such video or folder")
    from kdc_cli.inputs import Video

    video = Video(source)
    return _video_frames(video), video.frames_per_s, None


def _video_frames(video: Video) -> Iterator[Recorded]:
    for frame in video.frames():
        yield frame, None, {}
    if video.ends_early:
        ends = f"ends after {video.frames_read} of {video.expected_frames} frames"
        print(f"kdc record-demo: {video.path} {ends}", file=sys.stderr)


def _scene_frames() -> Iterator[Recorded]:
    from kdc_replay.bag_writer import truth_annotations
    from kdc_replay.demo_scene import scene

    for index in range(scene.FRAMES):
        yield scene.image(index), truth_annotations(scene.truth(index)), {}


def _photos(folder: Path, annotations: Path | None) -> tuple[Iterator[Recorded], float, int | None]:
    from kdc_cli.errors import CommandError
    from kdc_core.images import IMAGE_SUFFIXES, read_rgb

    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)
    known = None if annotations is None else _by_file_name(annotations)
    if known is not None:
        # Whoever brings annotations wants the annotated photos.
        files = [file for file in files if file.name in known]
    if not files:
        what = "photos" if annotations is None else f"photos that {annotations} has annotations of"
        raise CommandError(f"{folder}: there are no {what} in this folder")

    def pictures() -> Iterator[Recorded]:
        for file in files:
            image = read_rgb(file, upright=False)
            found = None if known is None else known[file.name]
            yield image, found, {"file_name": file.name}

    return pictures(), _PHOTOS_PER_S, len(files)


def _by_file_name(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The annotations of each image of a COCO file, by the name of the image's file."""
    import json

    from kdc_cli.errors import CommandError

    try:
        data = json.loads(path.read_bytes())
        people = {category["id"] for category in data["categories"] if category["name"] == "person"}
        names = {image["id"]: Path(image["file_name"]).name for image in data["images"]}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
        for annotation in data["annotations"]:
            if annotation["category_id"] in people:
                found[names[annotation["image_id"]]].append({**annotation, "category_id": 1})
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{path} is not a COCO file of images and annotations ({error!r:.80})") from error
    return found


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"must be a number of frames a second from 0.01 to 1000, got '{text}'")
    return value


def _quality(text: str) -> int:
    value = positive(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"must be at most 100, got '{text}'")
    return value
