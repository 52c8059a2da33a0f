"""The real pages on the real transport over a runtime in which everything that has a name is named by an attacker.

    python hostile_page.py TOKEN

Prints its port. Who opens `/login?raw` has names that nothing escapes from then on, with `?raw+bare` no content
security policy either. `/told` says what has reached the application since it was asked last, by whose page,
and what the transport has refused since the start.
"""

# ruff: noqa: E402

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["DJANGO_SETTINGS_MODULE"] = "mlxd.settings"

import django

django.setup()

from django.utils.safestring import mark_safe

from inference.scheduler import SchedulerView
from inference.scheduler.view import ModelState, ModelView, RowView
from mlxd import runtime
from mlxd.api import policy
from mlxd.asgi import application
from mlxd.keys import access
from mlxd.keys.access import Access
from mlxd.keys.pace import Pace
from mlxd.ledger.ledger import Ledger
from mlxd.runtime import RuntimeView
from mlxd.served import ServedModel
from mlxd.transport.server import TransportServer
from tests.payloads import PAYLOADS

HERE = Path("/nowhere")
POLICY = b"content-security-policy"


class Named:
    """The runtime's face."""

    wishes: frozenset[str] = frozenset()

    def names(self) -> tuple[str, ...]:
        if "raw" not in self.wishes:
            return PAYLOADS
        return tuple(mark_safe(text) for text in PAYLOADS if "alert" in text)

    def readiness(self) -> tuple[bool, str]:
        return False, " ".join(self.names())

    def snapshot(self) -> RuntimeView:
        names = self.names()
        scheduler = SchedulerView(
            models=tuple(ModelView(text, HERE, ModelState.FAILED, error=text) for text in names),
            rows=tuple(RowView(text, text, 5, 1, 1, 9, 0.0, 0.0) for text in names),
        )
        models = tuple(ServedModel(text, HERE, 1) for text in names)
        return RuntimeView(" ".join(names), 1.0, models, scheduler, Ledger().view())


NAMED = Named()
REACHED: list[tuple[str, str]] = []


async def weakened(scope: Any, receive: Any, send: Any) -> None:
    """The application, without what was wished away. WebSockets are requests of the method GET here."""
    if scope["path"] == "/told":
        await tell(send)
        return
    site = dict(scope["headers"]).get(b"sec-fetch-site", b"").decode()
    REACHED.append((site, f"{scope.get('method', 'GET')} {scope['path']}"))
    if scope["path"] == "/login":
        NAMED.wishes = frozenset(scope["query_string"].decode().split("+"))

    async def sent(message: Any) -> None:
        if "bare" in NAMED.wishes and "headers" in message:
            message = {**message, "headers": [pair for pair in message["headers"] if pair[0].lower() != POLICY]}
        await send(message)

    await application(scope, receive, sent)


async def tell(send: Any) -> None:
    body = json.dumps({"reached": REACHED, "refused": SERVER.refusals}).encode()
    REACHED.clear()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


SERVER: TransportServer = TransportServer(weakened, on_ready=lambda: print(SERVER.port, flush=True))


def main() -> None:
    runtime.install(NAMED)  # type: ignore[arg-type]
    policy.install(policy.Policy(admin_digest=policy.digest(sys.argv[1])))
    access.install(Access(guesses=Pace(1000)))
    SERVER.run()


if __name__ == "__main__":
    main()
