"""`python -m mlxd` equals `mlxd`."""

from __future__ import annotations

import sys
from pathlib import Path

import mlxd

if not sys.flags.safe_path and Path(sys.path[0] or ".").resolve() != Path(mlxd.__file__).resolve().parent.parent:
    del sys.path[0]  # the working directory, whose `inference` or `dashboard` would shadow ours

from mlxd.cli import main

if __name__ == "__main__":
    main()
