"""The disk's tier as the engine's settings want it. Loads MLX for its arrays, but no model library."""

from __future__ import annotations

import time

from inference.cache.disk import DiskStore
from inference.cache.disk_limits import disk_limits_of
from inference.engine.block_file import SafetensorsCodec
from inference.engine.settings import DiskSettings


def disk_store(settings: DiskSettings, ttl_s: float = 0.0) -> DiskStore:
    """Not open yet: whoever owns it opens it, on the thread that will use it."""
    limits = disk_limits_of(settings.max_bytes, settings.day_bytes, ttl_s)
    return DiskStore(settings.directory, limits, SafetensorsCodec(), time.time)
