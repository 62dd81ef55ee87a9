"""Memory kept between training steps: counted in page faults of a fresh process."""

import platform
import subprocess
import sys

import pytest

# Three blocks above glibc's limit (32 MB) for blocks that go back to the system when freed; faults of the last two.
_BLOCKS = """
import resource, sys
import numpy as np
from kdc_model.host_memory import keep_freed_memory
assert sys.argv[1] == "plain" or keep_freed_memory()
def faults():
    np.ones(48 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
first = faults()
faults()
print(faults() - first)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has its own ways")
def test_a_freed_block_is_used_again():
    def faults(how: str) -> int:
        command = [sys.executable, "-c", _BLOCKS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)

    # 12,288 pages a block; huge pages, where the kernel gives them unasked, make that 24.
    plain, kept = faults("plain"), faults("keep")
    assert kept < 10 < plain, (kept, plain)
