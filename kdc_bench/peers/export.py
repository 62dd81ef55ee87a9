"""The peers' graphs as ONNX files: built from their own packages' definitions, with random weights.

A graph's speed on a CPU does not depend on its weights, so none are downloaded. Neither package is a dependency of ours
(requirements/peers.txt); a folder of graphs exported elsewhere serves as well.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from kdc_bench.result import BenchError

OPSET = 17
RTMO_PEOPLE = 20  # people whose joints the RTMO graph works out
_INSTALL = "install the packages of requirements/peers.txt as that file says, or name a folder of graphs by --graphs"


def graph_of(network: str, size_hw: tuple[int, int], folder: Path) -> Path:
    """The ONNX file of a peer ("yolo11n-pose", "yolo11n-seg", "rtmo-s"); exported into the folder if not there yet.

    Raises BenchError where its package is missing or cannot build it.
    """
    path = folder / f"{network}_{size_hw[0]}x{size_hw[1]}.onnx"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished.onnx")
    try:
        # Both packages print pages, and name paths of this machine in them.
        with contextlib.redirect_stdout(io.StringIO()):
            _EXPORTERS[network](size_hw, unfinished)
    except ModuleNotFoundError as error:
        raise BenchError(f"{network} needs the Python package {error.name}: {_INSTALL}") from error
    os.replace(unfinished, path)
    return path


def _export(model: Any, size_hw: tuple[int, int], path: Path, outputs: list[str]) -> None:
    import torch

    image = torch.zeros(1, 3, *size_hw)
    with torch.no_grad():
        torch.onnx.export(
            model, (image,), str(path), input_names=["images"], output_names=outputs, opset_version=OPSET, dynamo=False
        )


def _export_yolo_pose(size_hw: tuple[int, int], path: Path) -> None:
    os.environ.setdefault("YOLO_VERBOSE", "false")
    from ultralytics.nn.tasks import PoseModel

    # The published pose networks know one class, the file beside them says COCO's 80.
    _export(_deployed(PoseModel("yolo11n-pose.yaml", nc=1, verbose=False)), size_hw, path, ["predictions"])


def _export_yolo_seg(size_hw: tuple[int, int], path: Path) -> None:
    os.environ.setdefault("YOLO_VERBOSE", "false")
    from ultralytics.nn.tasks import SegmentationModel

    model = SegmentationModel("yolo11n-seg.yaml", verbose=False)
    _export(_deployed(model), size_hw, path, ["predictions", "prototypes"])


def _deployed(model: Any) -> Any:
    """Batch norms folded and the head in its exported form, as Ultralytics' own exporter has it."""
    model = model.float().eval().fuse(verbose=False)
    head = model.model[-1]
    head.export, head.format = True, "onnx"
    return model


def _export_rtmo(size_hw: tuple[int, int], path: Path) -> None:
    _stand_in_for_compiled_parts()
    import mmpose
    import mmpose.models
    import torch
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmpose.registry import MODELS

    root = Path(mmpose.__file__).parent / ".mim"
    config = Config.fromfile(str(root / "configs/body_2d_keypoint/rtmo/coco/rtmo-s_8xb32-600e_coco-640x640.py"))
    config.model.backbone.init_cfg = None  # it names a file to download
    init_default_scope("mmpose")
    with contextlib.chdir(root) if sys.version_info >= (3, 11) else contextlib.nullcontext():
        model = MODELS.build(config.model).eval()
    head = model.head
    model.neck.switch_to_deploy({"input_size": size_hw})
    head.dcc.switch_to_deploy()

    class Graph(torch.nn.Module):
        """Backbone, neck, head and the joints of the best candidates, as the published ONNX file without its NMS."""

        def __init__(self) -> None:
            super().__init__()
            self.model, self.dcc = model, head.dcc

        def forward(self, image: Any) -> tuple[Any, ...]:
            scores, boxes, _, visible, vectors = head(self.model.extract_feat(image))
            cells = [tuple(s.shape[2:]) for s in scores]
            priors = head.prior_generator.grid_priors(cells, device=image.device)
            strides = torch.cat([p.new_full((len(p),), s) for p, s in zip(priors, head.featmap_strides)])
            priors = torch.cat(priors)
            boxes = head.decode_bbox(head._flatten_predictions(boxes), priors, strides)[0]
            best = head._flatten_predictions(scores).sigmoid()[0, :, 0].topk(RTMO_PEOPLE)
            chosen = boxes[best.indices]
            centre, scale = (chosen[:, :2] + chosen[:, 2:]) / 2, (chosen[:, 2:] - chosen[:, :2]) * head.bbox_padding
            vectors = head._flatten_predictions(vectors)[0][best.indices]
            joints = self.dcc.forward_test(vectors, torch.cat([centre, scale], dim=1), priors[best.indices])
            return best.values, chosen, joints, head._flatten_predictions(visible).sigmoid()[0][best.indices]

    _export(Graph().eval(), size_hw, path, ["scores", "boxes", "joints", "visible"])


def _stand_in_for_compiled_parts() -> None:
    """mmpose imports compiled packages that RTMO's graph does not use: names are enough."""
    import pycocotools
    import pycocotools.coco
    import pycocotools.cocoeval
    import pycocotools.mask  # noqa: F401

    for part in ("", ".coco", ".cocoeval", ".mask"):
        sys.modules.setdefault("xtcocotools" + part, sys.modules["pycocotools" + part])
    sys.modules.setdefault("mmcv.ops", MagicMock())
    utils = types.ModuleType("mmdet.utils")
    utils.__dict__.update(ConfigType=dict, OptConfigType=dict, reduce_mean=lambda value: value)
    sys.modules.setdefault("mmdet", types.ModuleType("mmdet"))
    sys.modules.setdefault("mmdet.utils", utils)


_EXPORTERS: dict[str, Callable[[tuple[int, int], Path], None]] = {
    "yolo11n-pose": _export_yolo_pose,
    "yolo11n-seg": _export_yolo_seg,
    "rtmo-s": _export_rtmo,
}
