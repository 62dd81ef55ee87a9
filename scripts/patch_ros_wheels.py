"""Make the ROS wheels' CMake files usable on this machine.

The exported targets of the interface packages name the include and site-packages directories of the Python
that the wheels were built with (/opt/python/cp3XX-cp3XX/...). Replace both by this interpreter's. Safe to run
again.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

INCLUDE = re.compile(r"/opt/python/cp\d+-cp\d+t?/include/python3\.\d+")
SITE_PACKAGES = re.compile(r"/opt/python/cp\d+-cp\d+t?/lib/python3\.\d+/site-packages")


def main() -> None:
    """Patch every CMake file under the environment's share directory."""
    paths = sysconfig.get_paths()
    changed = 0
    for path in sorted(Path(sys.prefix, "share").rglob("*.cmake")):
        text = path.read_text()
        new = INCLUDE.sub(lambda _: paths["include"], text)
        new = SITE_PACKAGES.sub(lambda _: paths["purelib"], new)
        if new != text:
            path.write_text(new)
            changed += 1
    print(f"patched {changed} CMake files of the ROS wheels")


if __name__ == "__main__":
    main()
