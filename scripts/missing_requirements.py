"""Print the requirements of the given files that this machine should have and this interpreter cannot import, unpinned.

Used inside a ROS distribution, whose own packages (apt) take precedence over the pins. torch keeps its pin:
no distribution brings it, and its size makes a surprise expensive; so do TensorRT's parts, which must match.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

# pip is what installs these afterwards; the package `packaging` is not on every machine.
from pip._vendor.packaging.markers import Marker

# Where the module's name is not the distribution's name in lower case with underscores.
MODULE_OF = {
    "cuda-bindings": "cuda",
    "opencv-python-headless": "cv2",
    "pydeprecate": "deprecate",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "tensorrt_rtx_cu13": "tensorrt_rtx",
    "tensorrt_rtx_cu13_bindings": "tensorrt_rtx_bindings",
    "tensorrt_rtx_cu13_libs": "tensorrt_rtx_libs",
    "types-pyyaml": "yaml-stubs",
    "types-tqdm": "tqdm-stubs",
}
KEEP_PIN = {"torch", "tensorrt_rtx_cu13", "tensorrt_rtx_cu13_bindings", "tensorrt_rtx_cu13_libs"}


def requirements(path: Path) -> list[str]:
    """Requirement lines of a file, those that it includes with -r first."""
    lines: list[str] = []
    for raw in path.read_text().splitlines():
        line = raw.split("#")[0].strip()
        if line.startswith("-r "):
            lines += requirements(path.parent / line[3:].strip())
        elif line:
            lines.append(line)
    return lines


def installed(name: str, module: str) -> bool:
    """Whether the whole of a package is here."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        return False
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    if not any(Path(place).is_relative_to(sys.prefix) for place in places):
        return True  # the distribution's own
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:  # pip writes it last: it was stopped while it copied
        return False
    return True


def main() -> None:
    """Print one missing requirement to a line."""
    printed: set[str] = set()
    for path in sys.argv[1:]:
        for line in requirements(Path(path)):
            pinned, _, marker = (part.strip() for part in line.partition(";"))
            if marker and not Marker(marker).evaluate():
                continue
            name = re.split(r"[=<>~!\[ ]", pinned)[0]
            module = MODULE_OF.get(name.lower(), name.lower().replace("-", "_"))
            if name in printed or installed(name, module):
                continue
            printed.add(name)
            print(pinned if name in KEEP_PIN else name)


if __name__ == "__main__":
    main()
