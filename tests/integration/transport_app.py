"""A small ASGI application on the real transport, run as a process by transport_client.py.

    python transport_app.py '{"limits": {...}, "gate": {...}, "host": "127.0.0.1", "port": 0}'

Prints one JSON line when it serves. SIGTERM drains: the port closes, running requests finish, the process ends.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from mlxd.transport.errors import BindFailed, ClientDisconnected
from mlxd.transport.gate import GateConfig
from mlxd.transport.limits import TransportLimits
from mlxd.transport.server import TransportServer

EVENTS: list[list[Any]] = []
REAL_TIME = time.time


def note(event: str, detail: Any = None) -> None:
    EVENTS.append([event, detail])


def rss_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


async def answer(send: Any, body: object, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    await send({"type": "http.response.start", "status": status, "headers": headers or []})
    await send({"type": "http.response.body", "body": payload})


async def read_body(receive: Any) -> tuple[int, int]:
    total = pieces = 0
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        total, pieces = total + len(message["body"]), pieces + 1
        if not message["more_body"]:
            return total, pieces


class App:
    server: TransportServer

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self.websocket(scope, receive, send)
            return
        name = scope["path"].strip("/").partition("/")[0].replace("-", "_")
        query = dict(parse_qsl(scope["query_string"].decode()))
        route = getattr(self, f"get_{name}", self.get_echo)
        await route(scope, receive, send, query)

    async def get_echo(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        total, pieces = await read_body(receive)
        shown = {key: scope[key] for key in ("path", "root_path", "method", "mlxd.request_id", "client")}
        names = [name.decode() for name, _ in scope["headers"]]
        await answer(send, {**shown, "body_bytes": total, "pieces": pieces, "header_names": names})

    async def get_state(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        state = {
            "events": EVENTS,
            "in_flight": self.server.in_flight,
            "rss_bytes": rss_bytes(),
            "refusals": self.server.refusals,
            "connections": len(self.server.census),
            "tasks": len(self.server._tasks),
        }
        await answer(send, state)

    async def get_stream(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for i in range(int(query.get("n", "10"))):
            await send({"type": "http.response.body", "body": b"event %d\n" % i, "more_body": True})
            await asyncio.sleep(float(query.get("gap_s", "0.05")))
        while "until" in query and not Path(query["until"]).exists():
            await asyncio.sleep(0.02)
        await send({"type": "http.response.body", "body": b"done\n"})

    async def get_flood(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        sent = 0
        piece = b"x" * 65536
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while sent < int(query["bytes"]):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                sent += len(piece)
            await send({"type": "http.response.body", "body": b""})
        except ClientDisconnected:
            note("flood-disconnected", sent)
            raise
        note("flood-finished", sent)

    async def get_big(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        await answer(send, b"y" * int(query["bytes"]))

    async def get_fail_early(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        raise RuntimeError("secret prompt text")

    async def get_fail_started(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        raise RuntimeError("secret prompt text")

    async def get_fail_late(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first\n", "more_body": True})
        await asyncio.sleep(0.05)
        raise RuntimeError("secret prompt text")

    async def get_fail_behind(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        """Fails while most of what it wrote, and its last words, still wait for a slow reader."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 60_000, "more_body": True})
        await send({"type": "http.response.body", "body": b"last words", "more_body": True})
        raise RuntimeError("secret prompt text")

    async def get_no_answer(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        return

    async def get_half_answer(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first\n", "more_body": True})

    async def get_eager(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        """Answers before it has read its body, and reads on."""
        await answer(send, {"early": True})
        note("eager-then", (await receive())["type"])

    async def get_torn(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        """A completion stream that breaks after two events, as an OpenAI client asks for it."""
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        choice = {"index": 0, "delta": {"content": "half a"}, "finish_reason": None}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
        for _ in range(2):
            event = b"data: " + json.dumps(chunk).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await asyncio.sleep(0.05)
        raise RuntimeError("secret prompt text")

    async def get_grouped(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        """Sends from inside a task group, as Django does."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(self.get_drone(send))

    async def get_drone(self, send: Any) -> None:
        while True:
            await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
            await asyncio.sleep(0.02)

    async def get_short(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        await answer(send, b"abc", headers=[(b"content-length", b"10")])

    async def get_no_content(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        await answer(send, b"", status=204)

    async def get_wait(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        """Unary: answers nothing until the client is gone."""
        await read_body(receive)
        note("wait-began")
        message = await receive()
        note("wait-ended", message["type"])

    async def get_deaf(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        """Never looks at receive; only cancellation reaches it."""
        note("deaf-began")
        try:
            await asyncio.sleep(60)
        finally:
            note("deaf-ended")

    async def get_stream_until_gone(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.ensure_future(self.gone(receive))
        while not gone.done():
            await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
            await asyncio.sleep(0.02)
        note("stream-gone")

    async def gone(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def get_jump(self, scope: Any, receive: Any, send: Any, query: dict[str, str]) -> None:
        """Step the wall clock of this process."""
        step_s = float(query["s"])
        time.time = lambda: REAL_TIME() + step_s
        await answer(send, {"now": time.time()})

    async def websocket(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert message["type"] == "websocket.connect"
        if scope["path"] == "/ws/refuse":
            await send({"type": "websocket.close"})
            return
        if scope["path"] == "/ws/broken":
            raise RuntimeError("secret prompt text")
        await send({"type": "websocket.accept"})
        shown = {key: scope[key] for key in ("path", "root_path", "mlxd.request_id")}
        await send({"type": "websocket.send", "text": json.dumps(shown)})
        while (message := await receive())["type"] == "websocket.receive":
            if message["text"] == "break":
                raise RuntimeError("secret prompt text")
            await send({"type": "websocket.send", "text": message["text"]})
        note("ws-ended", message.get("code"))


def main() -> int:
    options = json.loads(sys.argv[1])
    gate = {name: frozenset(value) for name, value in options.get("gate", {}).items()}
    app = App()

    def ready() -> None:
        server.loop.add_signal_handler(signal.SIGTERM, drain)
        bound = server.bind()
        print(json.dumps({"port": server.port, "addresses": bound.addresses, "missing": bound.missing}), flush=True)

    def drain() -> None:
        server.stop_listening()
        poll()

    def poll() -> None:
        if server.in_flight and not options.get("impatient"):
            server.loop.call_later(0.02, poll)
        else:
            server.stop()

    server = app.server = TransportServer(
        app,
        host=options.get("host", "127.0.0.1"),
        port=options.get("port", 0),
        limits=TransportLimits(**options.get("limits", {})),
        gate=GateConfig(**gate),
        on_ready=ready,
    )
    try:
        server.bind()
    except BindFailed as error:
        print(json.dumps({"error": type(error).__name__, "code": error.code, "host": error.host}), flush=True)
        return 4
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
