"""How much the device holds, for tests that compare before with after."""

from __future__ import annotations

import gc

import mlx.core as mx


def settled_bytes() -> int:
    """Active memory once garbage of other tests in this process is gone, which else goes between two readings."""
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    return mx.get_active_memory()
