"""How much memory the operating system counts as this process's own, device buffers included where it sees them."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")
_RUSAGE_INFO_V0: Final = 0
_UUID_BYTES: Final = 16
_FOOTPRINT_FIELD: Final = 7
"""Place of `ri_phys_footprint` among the 64-bit fields behind the UUID of `rusage_info_v0`."""


def footprint_bytes() -> int:
    """Resident bytes on Linux; on macOS the physical footprint, as Activity Monitor shows it. 0: it cannot be read."""
    if sys.platform == "darwin":
        return _of_darwin()
    try:
        resident_pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return resident_pages * os.sysconf("SC_PAGE_SIZE")


def _of_darwin() -> int:
    """Resident size leaves out what is compressed or wired for the GPU; the footprint is what the system kills by."""
    usage = ctypes.create_string_buffer(1024)
    try:
        failed = ctypes.CDLL(None).proc_pid_rusage(os.getpid(), _RUSAGE_INFO_V0, ctypes.byref(usage))
    except (OSError, AttributeError):
        return 0
    at = _UUID_BYTES + 8 * _FOOTPRINT_FIELD
    return 0 if failed else int.from_bytes(usage.raw[at : at + 8], sys.byteorder)
