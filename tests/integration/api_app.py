"""The real application on the real transport with a runtime that follows a script, run as a process.

    python api_app.py

Prints its port as one JSON line. The name of the model in a request chooses the script. What became of the
generations is told where a runtime says why it is not ready: `GET /health/ready`.
"""

# ruff: noqa: E402

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import django

django.setup()

from inference.events import Admitted, Delta
from mlxd import runtime
from mlxd.api import policy
from mlxd.asgi import application
from mlxd.transport.gate import GateConfig
from mlxd.transport.limits import TransportLimits
from mlxd.transport.server import TransportServer
from tests.integration.api_scripted import BROKEN, ScriptedGeneration, StandIn, said

SCRIPTS: dict[str, list[Any]] = {
    "short": said("Hello", " world"),
    "slow": [Admitted("r", 7), *([Delta("tick "), 0.02] * 500), said()[-1]],
    "silent": [Admitted("r", 7), 60.0],
    "breaks-at-once": [Admitted("r", 7), Delta("Hel"), BROKEN],
    "breaks-later": [Admitted("r", 7), Delta("Hel"), 0.1, Delta("lo"), 0.1, BROKEN],
    "dies": [Admitted("r", 7), Delta("Hel"), 0.05, RuntimeError("secret prompt text")],
}


class Chosen(StandIn):
    """Tells through readiness how many generations were made and how many of them were let go of."""

    def resolve(self, name: str | None) -> Any:
        return self.models[0]

    async def open(self, **asked: Any) -> ScriptedGeneration:
        self.script = list(SCRIPTS[asked["model"]])
        return await super().open(**asked)

    def readiness(self) -> tuple[bool, str]:
        return False, f"{len(self.made)} made, {sum(generation.cancelled for generation in self.made)} let go"


def main() -> None:
    runtime.install(Chosen())  # type: ignore[arg-type]
    policy.install(policy.Policy(keepalive_s=0.2))

    def ready() -> None:
        server.loop.add_signal_handler(signal.SIGTERM, server.stop)
        print(json.dumps({"port": server.port}), flush=True)

    server = TransportServer(application, limits=TransportLimits(), gate=GateConfig(), on_ready=ready)  # type: ignore[arg-type]
    server.run()


if __name__ == "__main__":
    main()
