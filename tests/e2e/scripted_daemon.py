"""`mlxd` with the scripted engine: the real daemon, transport, API and scheduler over a model that fails on command.

SCRIPT='{"decode_s": 0.05, "step_faults": {"5": "EXIT"}}' python -m tests.e2e.scripted_daemon serve ...
"""

from __future__ import annotations

import json
import os
from typing import Any

import mlxd.cli
import mlxd.daemon
from inference.engine.scripted import Fault, Script, ScriptedLoader
from inference.ports import ModelLimits


def read_script(text: str) -> tuple[Script, int]:
    """The script, and the device's memory limit in bytes."""
    wanted: dict[str, Any] = json.loads(text)
    limit_bytes = wanted.pop("limit_bytes", 0)
    for name in ("step_faults", "load_faults", "start_faults"):
        wanted[name] = {int(at): Fault[fault] for at, fault in wanted.get(name, {}).items()}
    limits = {"context_tokens": 65_536, "vocab_size": 512, "weights_bytes": 1_000_000, "kv_bytes_per_token": 1_000}
    wanted["limits"] = ModelLimits(**{**limits, **wanted.get("limits", {})})
    return Script(**wanted), limit_bytes


def main() -> None:
    script, limit_bytes = read_script(os.environ.get("SCRIPT", "{}"))
    mlxd.daemon.mlx_loader = lambda config, _bitwise_of: lambda: ScriptedLoader(script, limit_bytes=limit_bytes)
    mlxd.cli.main()


if __name__ == "__main__":
    main()
