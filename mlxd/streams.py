"""The one consumer of the generation paths: Django admits, Channels streams.

It reads the body, puts a slot into the scope and runs the whole Django stack as a task. Errors and folded answers pass
straight through. If the operation left a generation in the slot, the Django request is over before the long part
begins, no middleware can buffer it, and the events go from here to the socket.

Channels dispatches one message at a time, so the work is a task beside the dispatch: `http.disconnect` is then heard
at once and cancels it, wherever it is (Channels' own HTTP consumer hears it 10 s late).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from channels.consumer import AsyncConsumer, get_handler_name
from channels.exceptions import StopConsumer
from channels.utils import await_many_dispatch

from inference.errors import GenerationFailed
from inference.events import Event, Failed
from mlxd.api import policy
from mlxd.api.errors import answer, log_unexpected
from mlxd.api.slot import SCOPE_KEY, EventSource, Slot, Stream
from mlxd.api.sse import PING
from mlxd.transport.errors import ClientDisconnected

type Scope = MutableMapping[str, Any]
type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type App = Callable[[Scope, Receive, Send], Awaitable[None]]


class StreamBroken(Exception):
    """Raised once a stream has told its error: the transport must abort the connection, not end it cleanly.

    A client that sees a clean end takes half an answer for a whole one.
    """


class StreamConsumer(AsyncConsumer):  # type: ignore[misc]  # channels ships no types
    """One request. `app` is the Django application."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.scope: Scope
        self.slot = Slot()
        self.body: list[bytes] = []
        self.started = False
        self.task: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.base_send = {**scope, SCOPE_KEY: self.slot}, send
        try:
            with suppress(StopConsumer):
                await await_many_dispatch([receive, self.finished], self.dispatch)
        finally:
            await self.stop()
        if self.task is not None and not self.task.cancelled():
            self.task.result()  # raises what the transport has to know

    async def dispatch(self, message: Message) -> None:
        """Without Channels' look at database connections before each message: a thread hop for nothing here."""
        await getattr(self, get_handler_name(message))(message)

    async def http_request(self, message: Message) -> None:
        self.body.append(message.get("body", b""))
        if not message.get("more_body", False):
            self.task = asyncio.create_task(self.respond())
            self.task.add_done_callback(lambda _: self.ended.set())

    async def http_disconnect(self, message: Message) -> None:
        raise StopConsumer

    async def finished(self) -> Message:
        await self.ended.wait()
        return {"type": "http.disconnect"}

    async def stop(self) -> None:
        """Ends the work and waits for it, so that nothing of a request outlives its connection."""
        if self.task is not None and not self.task.done():
            self.task.cancel()
            await asyncio.wait([self.task])

    async def respond(self) -> None:
        """Whatever goes wrong in here is answered: a task that dies in silence leaves its client hanging for ever."""
        try:
            await self.app(self.scope, self.replayed_body(), self.pass_on)
            if self.slot.stream is not None:
                await self.stream(self.slot.stream)
        except (ClientDisconnected, StreamBroken):
            raise
        except Exception as error:
            await self.refuse(error)
        finally:
            if self.slot.stream is not None:
                self.slot.stream.source.cancel()

    def replayed_body(self) -> Receive:
        messages: list[Message] = [{"type": "http.request", "body": b"".join(self.body), "more_body": False}]
        self.body.clear()

        async def receive() -> Message:
            if not messages:
                await asyncio.Event().wait()  # this consumer hears the disconnect and cancels
            return messages.pop()

        return receive

    async def pass_on(self, message: Message) -> None:
        """Django's answer; of a stream's only the headers, and not its length."""
        if self.slot.stream is None:
            self.started = True
            await self.base_send(message)
        elif message["type"] == "http.response.start":
            message["headers"] = [pair for pair in message["headers"] if pair[0].lower() != b"content-length"]
            self.started = True
            await self.base_send(message)

    async def stream(self, stream: Stream) -> None:
        frames, ping_s = stream.frames, policy.current().keepalive_s
        now_s = asyncio.get_running_loop().time
        await self.send_body(frames.frames(stream.opening) or PING)
        sent_s = now_s()
        while not frames.done:
            events = await next_events(stream.source, sent_s + ping_s - now_s())
            piece = frames.frames(events)
            if piece or now_s() - sent_s >= ping_s:  # by the clock: progress without text is silence to a client
                await self.send_body(piece or PING)
                sent_s = now_s()
        if frames.failed:
            raise StreamBroken
        await self.base_send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send_body(self, body: bytes) -> None:
        await self.base_send({"type": "http.response.body", "body": body, "more_body": True})

    async def refuse(self, error: Exception) -> None:
        request_id = self.scope.get("mlxd.request_id", "")
        log_unexpected(error, request_id)
        if self.slot.stream is not None and self.started:
            await self.send_body(self.slot.stream.frames.error_frame(error))
        if self.started:
            raise StreamBroken from error
        status, headers, body = answer(error, self.scope["path"], request_id)
        await self.base_send({"type": "http.response.start", "status": status, "headers": headers})
        await self.base_send({"type": "http.response.body", "body": body, "more_body": False})


async def next_events(source: EventSource, timeout_s: float) -> tuple[Event, ...]:
    """The next batch; a source that ended without saying how has failed."""
    try:
        return await source.next_batch(max(0.0, timeout_s))
    except StopAsyncIteration:
        return (Failed(GenerationFailed("The generation ended without a result.")),)
