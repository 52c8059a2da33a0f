"""The machine: what MLX computes on, memory, the disk under the state directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from mlxd.doctor.findings import Finding, Scene, fail, ok, warn
from mlxd.paths import open_state_dir
from mlxd.start_errors import UnsafeStateDir

GIB = 1 << 30
SMALL_MACHINE_BYTES, LITTLE_DISK_BYTES = 16 * GIB, 5 * GIB
PROBE_TIMEOUT_S = 60
PROBE = """
import json, mlx.core as mx
device = mx.default_device()
mx.eval(mx.ones((2, 2)) @ mx.ones((2, 2)))
print(json.dumps({"device": device.type.name, "metal": mx.metal.is_available()}))
"""


@dataclass(frozen=True, slots=True)
class Probe:
    """What one small MLX computation in a process of its own came to. `device` is "" when it failed."""

    device: str
    metal: bool = False
    trouble: str = ""


def probe_mlx() -> Probe:
    """Computes something with MLX where a crash hurts nobody (an unusable Metal device aborts the process)."""
    try:
        ran = subprocess.run(  # noqa: S603 - our own interpreter and text
            [sys.executable, "-I", "-c", PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Probe("", trouble=type(error).__name__)
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[-1]
        return Probe("", trouble=last[:200])
    said = json.loads(ran.stdout)
    return Probe(str(said["device"]), bool(said["metal"]))


def metal_library(
    _scene: Scene, platform: str = sys.platform, folder: Path | None = None, probe: Probe | None = None
) -> Finding:
    """Without `mlx.metallib` every computation dies with "Failed to load the default metallib"."""
    if platform != "darwin":
        return ok("metal", "not applicable: Metal is macOS's")
    place = folder or _mlx_folder()
    cure = (
        "Install the wheel anew: uv pip install --reinstall mlx mlx-metal (never build it with SwiftPM or from source)"
    )
    if place is None or not list(place.rglob("mlx.metallib")):
        return fail("metal", f"MLX's Metal library (mlx.metallib) is missing below {place or 'mlx'}.", cure)
    result = probe or probe_mlx()
    if not result.device:
        return fail("metal", f"MLX cannot use the Metal device: {result.trouble}.", cure)
    if not result.metal:
        return fail(
            "metal",
            "MLX sees no Metal device here.",
            "mlxd needs Apple silicon and macOS 14, outside a virtual machine.",
        )
    return ok("metal", "mlx.metallib is there and the device computes")


def speed(_scene: Scene, probe: Probe | None = None) -> Finding:
    """MLX computes at all, and on a GPU: on a CPU every answer is slow, whatever the settings."""
    result = probe or probe_mlx()
    if not result.device:
        return fail(
            "mlx",
            f"MLX does not compute: {result.trouble}.",
            "Install mlxd again: uv sync or uv tool install --force mlxd",
        )
    if result.device == "cpu":
        return warn(
            "mlx",
            "MLX computes on the CPU, so generation is slow.",
            "With an NVIDIA GPU: uv sync --extra cuda. Else keep to small models and short contexts.",
        )
    return ok("mlx", "MLX computes on the GPU")


def _mlx_folder() -> Path | None:
    spec = PathFinder.find_spec("mlx")  # finds the folder without importing anything
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory(_scene: Scene, total_bytes: int | None = None) -> Finding:
    """16 GB serve small models; 30B and up want 32 GB or more."""
    total = total_bytes if total_bytes is not None else memory_bytes()
    if total >= SMALL_MACHINE_BYTES * 0.95:  # firmware keeps some of it
        return ok("memory", f"{total / GIB:.0f} GiB")
    return warn(
        "memory",
        f"{total / GIB:.0f} GiB of memory; 16 GB or more are recommended.",
        "Keep to models of 4B and fewer parameters, in 4 bits.",
    )


def state_directory(scene: Scene) -> Finding:
    """Private, ours, on a disk that can hold a database, with room."""
    root = scene.state.root
    if not root.exists():
        return ok("state", f"{root} will be made at the first start")
    try:
        open_state_dir(root)
    except UnsafeStateDir as error:
        return fail("state", error.message, error.cure)
    free = shutil.disk_usage(root).free
    if free < LITTLE_DISK_BYTES:
        return warn(
            "state",
            f"{root}: only {free / GIB:.1f} GiB are free on that disk.",
            "Free some space, or move it with --state-dir.",
        )
    return ok("state", f"{root} is private; {free / GIB:.0f} GiB free")
