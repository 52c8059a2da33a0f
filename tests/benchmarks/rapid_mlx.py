"""rapid-mlx in an environment of its own, which is made when somebody asks for it and then kept.

It cannot share the project's: it needs another mlx-lm. Where it is not there, its figures say `not run`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

VERSION = "0.16.10"
INSTALL_S = 900


def home() -> Path:
    """Where the environment lives: the user's cache folder."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "mlxd-benchmarks" / f"rapid-mlx-{VERSION}"


def python() -> Path | None:
    """The interpreter of the environment, None where there is none that is complete."""
    return home() / "bin" / "python" if (home() / "complete").exists() else None


def install() -> None:
    """Makes the environment with uv. Raises `CalledProcessError` or `OSError` where that fails."""
    if python() is not None:
        return
    packages = [f"rapid-mlx=={VERSION}", *(["mlx[cpu]"] if sys.platform == "linux" else [])]
    subprocess.run(["uv", "venv", "--clear", "--python", sys.executable, str(home())], check=True)
    command = ["uv", "pip", "install", "--python", str(home() / "bin" / "python"), *packages]
    subprocess.run(command, check=True, timeout=INSTALL_S)
    (home() / "complete").touch()
