"""The photographs that are measured on: a folder's, or the free ones that come with scikit-image and matplotlib.

astronaut    Eileen Collins (NASA, public domain), scikit-image
camera       a man behind a camera (Lav Varshney, CC0), scikit-image
grace_hopper Grace Hopper (James S. Davis, U.S. Navy, public domain), matplotlib
rocket       a Falcon 9 (SpaceX, public domain), scikit-image: nobody in it
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from kdc_bench.result import BenchError
from kdc_core.images import IMAGE_SUFFIXES, read_rgb

_FREE = (
    ("skimage", "data/rocket.jpg"),
    ("skimage", "data/camera.png"),
    ("skimage", "data/astronaut.png"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)


def free_photographs() -> dict[str, np.ndarray]:
    """Name -> picture, uint8 RGB, of those that are installed."""
    photographs = {}
    for package, file in _FREE:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec is not None else []:
            path = Path(folder) / file
            if path.is_file():
                photographs[path.stem] = read_rgb(path)
    return photographs


def photographs_of(folder: Path, most: int = 100) -> dict[str, np.ndarray]:
    """Name -> picture, uint8 RGB, of a folder, the first `most` by name. Raises BenchError for a folder without any."""
    if not folder.is_dir():
        raise BenchError(f"{folder} is no folder")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)[:most]
    if not paths:
        raise BenchError(f"there is no picture in {folder}")
    return {path.name: read_rgb(path) for path in paths}
