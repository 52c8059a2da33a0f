"""The most memory that this program has held."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_bytes() -> int:
    """Resident bytes at their highest, since the program began.

    Linux carries `ru_maxrss` over from whoever started the program: below a daemon of 600 MB a child that holds 10 MB
    says 614, and nothing that it takes up to there shows. The mark in /proc begins anew.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) << 10
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10
