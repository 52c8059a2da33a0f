"""The one place that reads and limits device memory.

It never calls `mx.set_wired_limit`, and nothing it uses does: a machine with that limit raised panics under two
streams with cache churn, and did not in hours of the same load with the call left out (ml-explore/mlx#3186).
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from pathlib import Path

import mlx.core as mx

from inference.engine.settings import EngineSettings
from inference.ports import DeviceMemory

_USABLE_SHARE = 0.9
_HOST_SHARE = 0.75
"""MLX on the CPU shares the machine's memory with everything else on it."""
_POOL_SHARE = 1 / 16
_POOL_MOST_BYTES = 2 * 1024**3
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""glibc keeps freed memory for itself until it is asked; other systems' allocators have no such call."""
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def limit_device(settings: EngineSettings) -> int:
    """Tells MLX what it may use and returns that, in bytes."""
    limit = settings.memory_limit_bytes
    if limit is None:
        limit = default_limit_bytes()
    pool = settings.buffer_pool_bytes
    if pool is None:
        pool = min(int(limit * _POOL_SHARE), _POOL_MOST_BYTES)
    mx.set_memory_limit(limit)
    mx.set_cache_limit(pool)
    return limit


def default_limit_bytes() -> int:
    """What a device recommends less a tenth; three quarters of the machine's memory where there is only a CPU."""
    device = mx.device_info()
    for key in ("max_recommended_working_set_size", "total_memory"):
        if isinstance(size := device.get(key), int) and size > 0:
            return int(size * _USABLE_SHARE)
    return int(_host_bytes() * _HOST_SHARE)


def _host_bytes() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        confined = int(_CGROUP_LIMIT.read_text())
    except (OSError, ValueError):
        return physical
    return min(physical, confined)


def read_device(limit_bytes: int) -> DeviceMemory:
    return DeviceMemory(
        active_bytes=mx.get_active_memory(),
        cache_bytes=mx.get_cache_memory(),
        peak_bytes=mx.get_peak_memory(),
        limit_bytes=limit_bytes,
    )


def release_unused() -> None:
    """Gives freed buffers back to the system, those that only garbage cycles still hold included."""
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    if _malloc_trim is not None:
        _malloc_trim(0)


def device_answers() -> bool:
    """Whether the device still computes, asked after an error. False means its state cannot be trusted."""
    try:
        return bool(mx.array([20, 22]).sum().item() == 42)
    except Exception:
        return False


class _StreamsOfThread:
    """Lives as long as its thread, and releases the thread's MLX streams with it."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def __del__(self) -> None:
        if threading.get_ident() == self._thread:  # a daemon thread's belongings die in the main thread, at exit
            mx.clear_streams()


_thread_locals = threading.local()


def release_streams_with_thread() -> None:
    """To be called by a thread that will use MLX, once or more.

    A process in which such a thread ended with its streams in place aborts at exit ("terminate called without an
    active exception", in 4 runs of 6). Nothing can be computed in the thread once they are released, so that has to
    be the very last thing it does, however it ends.
    """
    if threading.current_thread() is not threading.main_thread():
        _thread_locals.streams = _StreamsOfThread()
