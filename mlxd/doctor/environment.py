"""The environment of the process: what would be loaded into it, or in the place of its own packages."""

from __future__ import annotations

from mlxd.doctor.findings import Finding, Scene, ok, warn

INJECTED = ("DYLD_INSERT_LIBRARIES", "DYLD_LIBRARY_PATH", "DYLD_FRAMEWORK_PATH", "LD_PRELOAD", "LD_LIBRARY_PATH")
PYTHONS = ("PYTHONPATH", "PYTHONHOME")


def foreign_code(scene: Scene) -> Finding:
    """Variables that bring code of other programs in. `mlxd serve` leaves PYTHONPATH aside; libraries are in."""
    found = [name for name in (*PYTHONS, *INJECTED) if scene.environ.get(name)]
    if not found:
        return ok("environment", "no variable brings code of other programs in")
    return warn(
        "environment",
        f"{', '.join(found)} set: code of other programs may be loaded into mlxd.",
        f"If that was not for mlxd: unset {' '.join(found)}",
    )
