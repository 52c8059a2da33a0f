"""The disk's tier as the engine's settings want it. Loads MLX for its arrays, but no model library."""

from __future__ import annotations

import time
from typing import Final

from inference.cache.disk import DiskStore
from inference.cache.disk_limits import DiskLimits
from inference.engine.block_file import SafetensorsCodec
from inference.engine.settings import DiskSettings

DISK_MOST_BYTES: Final = 20 * 1024**3
DISK_FREE_SHARE: Final = 0.1


def disk_store(settings: DiskSettings, ttl_s: float = 0.0) -> DiskStore:
    """Not open yet: whoever owns it opens it, on the thread that will use it."""
    auto = settings.max_bytes is None
    limits = DiskLimits(
        max_bytes=DISK_MOST_BYTES if settings.max_bytes is None else settings.max_bytes,
        max_free_share=DISK_FREE_SHARE if auto else 1.0,
        day_bytes=settings.day_bytes,
        ttl_s=ttl_s,
    )
    return DiskStore(settings.directory, limits, SafetensorsCodec(), time.time)
