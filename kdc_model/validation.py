"""Scores on photos that are not trained on, every so often during a run."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from kdc_core.pipeline import Pipeline, PipelineOptions
from kdc_model import distributed
from kdc_model.config import TrainConfig
from kdc_model.evaluate import find_people, load_truth, score
from kdc_model.network import KDCNet
from kdc_model.run_log import append_row, read_columns
from kdc_model.torch_backend import TorchBackend, model_spec

logger = logging.getLogger(__name__)

_MERIT = ("keypoints.AP", "segm.AP")
_COLUMNS = ("keypoints.AP", "keypoints.AP50", "segm.AP", "segm.AP50", "person_iou")


class Validation:
    """Evaluates the averaged network (each process its share of the images), appends to `scores.csv`, and keeps the
    best checkpoint as `best.pt`.

    Best is the largest sum of keypoint AP and mask AP; a resumed run reads the best so far from `scores.csv`.
    Raises AnnotationError, FileNotFoundError for unusable validation data.
    """

    def __init__(self, config: TrainConfig, out: Path, steps_per_epoch: float) -> None:
        self._config, self._out = config, out
        self._truth = load_truth(Path(config.val_annotations), Path(config.val_images))
        self._period = max(1, round(config.evaluate_epochs * steps_per_epoch))
        self._scores = out / "scores.csv"
        kept = read_columns(self._scores)
        self._best = max(map(sum, zip(*(kept.get(name, ()) for name in _MERIT))), default=-1.0)
        self._steps = {int(step) for step in kept.get("step", ())}

    def due(self, step: int, last_step: int) -> bool:
        """Whether the network is to be scored after this many steps."""
        return step % self._period == 0 or step == last_step

    def missed(self, step: int, last_step: int) -> bool:
        """Whether the scores of a step that a run goes on from are lacking: a signal came before they were taken."""
        return step > 0 and self.due(step, last_step) and step not in self._steps

    def run(self, average: KDCNet, checkpoint: Path, step: int) -> dict[str, float]:
        """Score a network in evaluation mode, just saved as `checkpoint`."""
        backend = TorchBackend(average, model_spec(average, self._config))
        # AP looks at the whole range of scores.
        predict = Pipeline(backend, PipelineOptions(person_threshold=0.01))
        share = self._truth[distributed.rank() :: distributed.world_size()]
        parts = distributed.gathered(find_people(predict, share))
        metrics = score(self._truth, parts)
        if distributed.rank() > 0:
            return metrics
        row = {"step": step, **{name: round(metrics[name], 5) for name in _COLUMNS}}
        append_row(self._scores, row)
        logger.info("step %d: keypoint AP %.3f, mask AP %.3f", step, metrics["keypoints.AP"], metrics["segm.AP"])
        if (merit := sum(row[name] for name in _MERIT)) > self._best:
            self._best = merit
            partial = self._out / "best.partial"
            shutil.copyfile(checkpoint, partial)
            partial.replace(self._out / "best.pt")
        return metrics
