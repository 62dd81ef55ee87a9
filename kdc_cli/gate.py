"""What `kdc parity`, `kdc build-engine` and `kdc export` share: pictures, limits, and a comparison on them."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc_cli.arguments import fraction, positive
from kdc_cli.errors import CommandError

if TYPE_CHECKING:
    import numpy as np

    from kdc_core.backends.base import Backend
    from kdc_core.parity import Parity, ParityLimits
    from kdc_core.spec import ModelSpec

_LIMIT_HELP = {
    "oks": "least mean OKS of the people that both find",
    "iou": "least mean IoU of their masks",
    "missed": "largest share of the reference's people that may be missed",
    "extra": "largest share of people that may be found in addition",
    "ap": "largest loss of keypoint AP and of mask AP (with --annotations)",
}


def add_gate_arguments(parser: argparse.ArgumentParser) -> None:
    """`--annotations`, `--limit` and `--limit-oks` and so on."""
    parser.add_argument(
        "--annotations", type=Path, metavar="FILE.json", help="COCO annotations of the pictures: AP is compared too"
    )
    parser.add_argument(
        "--limit", type=positive, default=50, metavar="N", help="the first N pictures only (default: %(default)s)"
    )
    for name, text in _LIMIT_HELP.items():
        parser.add_argument(
            f"--limit-{name}", type=fraction, metavar="0..1", help=f"{text} (default: by precision, docs/runtime.md)"
        )


def pictures_in(folder: Path) -> list[Path]:
    """The picture files in a folder, in order of name. Raises CommandError, FileNotFoundError."""
    from kdc_core.images import IMAGE_SUFFIXES

    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of pictures at {folder}")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise CommandError(f"there are no pictures in {folder}")
    return found


def limits_of(args: argparse.Namespace, precision: str) -> ParityLimits:
    """The limits of a precision, with those that the command line names."""
    from kdc_core.parity import LIMITS

    given = {"ap_drop": args.limit_ap, **{n: getattr(args, f"limit_{n}") for n in ("oks", "iou", "missed", "extra")}}
    limits = LIMITS["fp32" if precision == "auto" else precision]
    return dataclasses.replace(limits, **{name: value for name, value in given.items() if value is not None})


def network_inputs(paths: list[Path], spec: ModelSpec, long_side: int | None) -> Iterator[np.ndarray]:
    """Pictures as the network gets them, for calibration."""
    from kdc_core.images import read_rgb

    if long_side is not None and spec.dynamic_input:
        spec = dataclasses.replace(spec, input_hw=(long_side, long_side))
    for path in paths:
        image = read_rgb(path)
        yield spec.letterbox((image.shape[0], image.shape[1])).apply(image)


@dataclass(frozen=True)
class Gate:
    """Pictures on which two backends are compared; with annotations also by COCO's AP. long_side: as for `Pipeline`."""

    pictures: list[Path]
    annotations: Path | None
    long_side: int | None

    def compare(self, reference: Backend, others: dict[str, Backend]) -> dict[str, Parity]:
        """People of each backend against the reference's. Raises InferenceError, AnnotationError."""
        from tqdm import tqdm

        from kdc_core.images import read_rgb
        from kdc_core.parity import ParityCount, comparable_pipeline

        try:
            expected = comparable_pipeline(reference, self.long_side)
            pipelines = {name: comparable_pipeline(backend, self.long_side) for name, backend in others.items()}
        except ValueError as error:  # a long side that this model cannot have
            raise CommandError(str(error)) from error
        counts = {name: ParityCount() for name in others}
        for path in tqdm(self.pictures, unit="image", disable=None):
            image = read_rgb(path)
            people = expected(image).people
            for name, pipeline in pipelines.items():
                counts[name].add(people, pipeline(image).people)
        scores = {name: self._ap(backend) for name, backend in {"": reference, **others}.items()}
        return {
            name: count.result({k: v - scores[""][k] for k, v in scores[name].items()})
            for name, count in counts.items()
        }

    def _ap(self, backend: Backend) -> dict[str, float]:
        if self.annotations is None:
            return {}
        from kdc_core.pipeline import Pipeline, PipelineOptions
        from kdc_model.evaluate import evaluate, load_truth

        shown = set(self.pictures)
        truth = [t for t in load_truth(self.annotations, self.pictures[0].parent) if t.record.path in shown]
        if not truth:
            raise CommandError(f"{self.annotations} annotates none of the pictures compared")
        pipeline = Pipeline(backend, PipelineOptions(person_threshold=0.01), self.long_side)
        metrics = evaluate(pipeline, truth)
        return {name: metrics[name] for name in ("keypoints.AP", "segm.AP")}


def table(rows: dict[str, Any]) -> str:
    """Comparisons as a table for people; the keys are the sides compared, the values `Parity`."""
    width = max(len(name) for name in rows) + 2
    with_ap = any(parity.ap for parity in rows.values())
    heads = ("people", "OKS", "mask IoU", "missed", "extra") + (("kpt AP", "mask AP") if with_ap else ())
    lines = [" " * width + "".join(f"{head:>10}" for head in heads)]
    for name, parity in rows.items():
        cells = [f"{parity.people}", f"{parity.oks:.4f}", f"{parity.iou:.4f}", f"{parity.missed}", f"{parity.extra}"]
        cells += [f"{change:+.4f}" for change in parity.ap.values()]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)
