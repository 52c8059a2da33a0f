"""The machine the figures are from, and how its processes are started and read."""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from tests.e2e.daemon import clean_environment

PACKAGES = ("mlx", "mlx-lm", "daphne", "django", "channels", "django-ninja")
_SCHEDULER_CLOCK = 2
"""Of a process's three clocks on Linux the one that `clock_getcpuclockid` names."""
_BLAS_PATTERNS = ("*/openblas-pthread/libopenblas.so.0", "*/libopenblas.so.0", "libopenblas.so.0")


def openblas() -> Path | None:
    """The system's OpenBLAS. MLX's Linux wheel brings a slow BLAS; preloading this one makes a CPU usable."""
    libraries = Path("/usr/lib")
    found = (path for pattern in _BLAS_PATTERNS for path in sorted(libraries.glob(pattern)))
    return next(found, None)


def environment(threads: int, **more: str) -> dict[str, str]:
    """A child's environment: nothing of mlxd's or of HTTP clients', and OpenBLAS with that many threads."""
    return clean_environment(**blas(threads), **more)


def blas(threads: int) -> dict[str, str]:
    """The variables that preload OpenBLAS; only the thread count where there is none."""
    library = openblas()
    preload = {"LD_PRELOAD": str(library)} if library else {}
    return {**preload, "OPENBLAS_NUM_THREADS": str(threads)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_s(pid: int) -> float:
    """Processor seconds a process has used, all threads, those that have ended too.

    Linux counts them in nanoseconds, but tells them in ticks of 10 ms everywhere except by the process's own clock.
    """
    if sys.platform == "linux":
        return time.clock_gettime_ns(~pid << 3 | _SCHEDULER_CLOCK) / 1e9
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def rss_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def open_fds(pid: int) -> int:
    return int(psutil.Process(pid).num_fds())


def threads(pid: int) -> int:
    return int(psutil.Process(pid).num_threads())


def describe() -> str:
    """One line: system, cores, load, versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    blas_name = openblas() or "MLX's own BLAS (slow)"
    load = os.getloadavg()[0]
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {load:.2f}; "
        f"Python {platform.python_version()}, {versions}; {blas_name}"
    )
