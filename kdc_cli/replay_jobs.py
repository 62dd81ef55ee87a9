"""What `kdc replay` was asked for, as jobs: a bag, its folder, its annotations and the options each."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdc_replay.annotations import Annotations
    from kdc_replay.runner import ReplayJob


def jobs_of(args: argparse.Namespace) -> list[ReplayJob]:
    """A job for each bag. Raises CommandError, ReplayAnnotationError, OSError."""
    from kdc_cli.errors import CommandError
    from kdc_replay.bag_reader import Selection
    from kdc_replay.outputs import OutputChoice
    from kdc_replay.runner import ReplayJob, ReplayOptions

    options = ReplayOptions(
        # Workers may stand in another folder.
        model=None if args.model is None else args.model.resolve(),
        backend=args.backend,
        long_side=args.long_side,
        selection=Selection(args.start, args.duration, args.every),
        pipeline=_pipeline_options(args),
    )
    outputs = OutputChoice(not args.no_results, not args.no_video, not args.no_report)
    folders = _folders(args)
    several = len(folders) > 1
    jobs = [
        ReplayJob(
            bag=bag.resolve(),
            folder=folder,
            topic=args.topic,
            options=options,
            annotations=_annotations(args, bag, several),
            outputs=outputs,
            overwrite=args.overwrite,
        )
        for bag, folder in zip(args.bags, folders)
    ]
    if args.annotations is not None and all(job.annotations is None for job in jobs):
        name = f"{bag_name(args.bags[0])}.json"
        raise CommandError(f"{args.annotations}: there is no file of annotations called like a bag, such as {name}")
    return jobs


def _pipeline_options(args: argparse.Namespace) -> Any:
    from kdc_core.pipeline import PipelineOptions

    chosen = {
        name: getattr(args, name)
        for name in ("person_threshold", "keypoint_threshold", "max_people")
        if getattr(args, name) is not None
    }
    return PipelineOptions(masks=not args.no_masks, appearance=True, **chosen)


def _folders(args: argparse.Namespace) -> list[Path]:
    """A folder for each bag: --out itself for a single one, else one below it called like the bag."""
    names = [bag_name(bag) for bag in args.bags]
    if len(names) == 1 and args.dask is None:
        return [args.out or Path(f"replay_{names[0]}")]
    parent = (args.out or Path("replay")).resolve()
    folders: list[Path] = []
    for name in names:
        folder, count = parent / name, 1
        while folder in folders:
            count += 1
            folder = parent / f"{name}_{count}"
        folders.append(folder)
    return folders


def bag_name(bag: Path) -> str:
    """A recording's name: its folder's, or its file's without suffixes."""
    from kdc_replay.bag_files import without_suffixes

    path = bag.resolve()
    return path.name if path.is_dir() else without_suffixes(path.name)


def _annotations(args: argparse.Namespace, bag: Path, several: bool) -> Annotations | None:
    from kdc_cli.errors import CommandError
    from kdc_replay.annotations import load_annotations

    path: Path | None = args.annotations
    if path is None:
        return None
    if path.is_dir():
        path = path / f"{bag_name(bag)}.json"
        if several and not path.is_file():
            return None
    elif several:
        raise CommandError(f"for several bags --annotations names a folder with BAG.json for each, not {path}")
    return load_annotations(path)
