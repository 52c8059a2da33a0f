"""How much may lie on a disk, and how fast it may come there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_FILE_BYTES: Final = 2 * 1024**3
"""Ten times what a block of the largest models takes. A file beyond it is nothing of ours, and is never read."""
MOST_BYTES: Final = 20 * 1024**3
FREE_SHARE: Final = 0.1
"""What may lie on a disk where nobody says how much."""


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """`max_bytes` of files in all, obeyed at every moment, what is being written included. Nothing is written that
    fills the disk beyond `max_disk_share`, whoever filled it, or beyond `day_bytes` of a day (0: no limit). What was
    not used for `ttl_s` goes (0: never). At the start `max_bytes` is lowered to `max_free_share` of what the disk has
    free beside these files.
    """

    max_bytes: int
    max_free_share: float = 1.0
    day_bytes: int = 0
    max_disk_share: float = 0.9
    ttl_s: float = 0.0


def disk_limits_of(max_bytes: int | None, day_bytes: int, ttl_s: float = 0.0) -> DiskLimits:
    """With None decided: a tenth of what the disk has free, at most 20 GiB."""
    return DiskLimits(
        max_bytes=MOST_BYTES if max_bytes is None else max_bytes,
        max_free_share=FREE_SHARE if max_bytes is None else 1.0,
        day_bytes=day_bytes,
        ttl_s=ttl_s,
    )
