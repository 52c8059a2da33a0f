"""One line for each request that asked for something, with the figures its client was told."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

from mlxd.api.facts import SCOPE_KEY, Facts
from mlxd.log import log_request, log_tool_call, request_context

type Scope = MutableMapping[str, Any]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type App = Callable[[Scope, Receive, Send], Awaitable[None]]

CLIENT_LEFT: Final = 499
QUIET: Final = ("/health", "/static/", "/favicon.ico")
"""Polled every few seconds: only their failures are worth a line."""


@dataclass(slots=True)
class Watch:
    """What went out to the client."""

    status: int = CLIENT_LEFT
    finished: bool = False

    def note(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.finished = not message.get("more_body", False)


def logged(app: App) -> App:
    """`app`, and a line when a request of it is over, however it ended."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        began_s, facts, watch = time.monotonic(), Facts(), Watch()

        async def noted(message: Message) -> None:
            await send(message)
            watch.note(message)

        request_id = scope.get("mlxd.request_id")
        with request_context(request_id) if request_id else nullcontext():
            try:
                await app({**scope, SCOPE_KEY: facts}, receive, noted)
            finally:
                _log(scope, facts, watch, 1000 * (time.monotonic() - began_s))

    return application


def _log(scope: Scope, facts: Facts, watch: Watch, duration_ms: float) -> None:
    if watch.status < 400 and (scope["path"].startswith(QUIET) or scope["path"] == "/"):
        return
    status = watch.status if watch.finished or facts.error else CLIENT_LEFT
    log_request(method=scope["method"], route=facts.route, status=status, duration_ms=duration_ms, **facts.figures())
    for name, arguments_bytes in facts.reducer.calls if facts.reducer is not None else ():
        log_tool_call(name, arguments_bytes)
