"""A client that costs next to nothing: it notes when bytes arrive and reads them once the answer is complete.

On two cores every millisecond of the client is taken from the server it measures. Times are `time.perf_counter`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit


def chat(content: str, max_tokens: int, **more: Any) -> dict[str, Any]:
    """A streamed greedy request that both mlxd and mlx_lm.server take."""
    return {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }


def request_bytes(url: str, body: dict[str, Any], path: str = "/v1/chat/completions") -> bytes:
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + payload


class Exchange(asyncio.Protocol):
    """One request on a connection of its own. `blocks` are (time, bytes) as they came."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.blocks: list[tuple[float, bytes]] = []
        self.sent_s = 0.0
        self.ended = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._awaited: tuple[int, asyncio.Future[None]] | None = None
        self._seen = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.sent_s = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.blocks.append((time.perf_counter(), data))
        if self._awaited is not None:
            self._seen += data.count(b'"content":')
            self._look()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        if self._awaited is not None and not self._awaited[1].done():
            self._awaited[1].set_result(None)

    async def tokens(self, count: int) -> None:
        """Until about `count` pieces of text are there (or the end)."""
        self._seen = sum(data.count(b'"content":') for _, data in self.blocks)
        self._awaited = (count, asyncio.get_running_loop().create_future())
        self._look()
        await self._awaited[1]
        self._awaited = None

    def _look(self) -> None:
        if self._awaited is not None and self._seen >= self._awaited[0] and not self._awaited[1].done():
            self._awaited[1].set_result(None)

    def leave(self) -> float:
        """Closes the connection as a client that goes away; the time of it."""
        assert self.transport is not None
        self.transport.abort()
        return time.perf_counter()

    async def reply(self) -> Reply:
        await self.ended
        return Reply(self.sent_s, tuple(self.blocks))


@dataclass(frozen=True)
class Reply:
    """A complete answer. Lists are in order of arrival."""

    sent_s: float
    blocks: Sequence[tuple[float, bytes]]

    @cached_property
    def head(self) -> bytes:
        return b"".join(data for _, data in self.blocks).partition(b"\r\n\r\n")[0]

    @property
    def status(self) -> int:
        words = self.head.split(None, 2)
        return int(words[1]) if len(words) > 1 else 0

    @cached_property
    def body(self) -> bytes:
        return b"".join(piece for _, piece in self._pieces())

    @cached_property
    def events(self) -> list[tuple[float, str]]:
        """(time, data) of each event of the stream."""
        return [
            (at_s, line[6:].decode())
            for at_s, event in self._split(b"\n\n")
            for line in event.splitlines()
            if line.startswith(b"data: ")
        ]

    @cached_property
    def chunks(self) -> list[tuple[float, dict[str, Any]]]:
        return [(at_s, json.loads(data)) for at_s, data in self.events if data != "[DONE]"]

    @property
    def done(self) -> bool:
        return bool(self.events) and self.events[-1][1] == "[DONE]"

    @cached_property
    def text_times_s(self) -> list[float]:
        """When each piece of text came."""
        return [at_s for at_s, chunk in self.chunks if _text(chunk)]

    @cached_property
    def text(self) -> str:
        return "".join(_text(chunk) for _, chunk in self.chunks)

    @cached_property
    def completion_tokens(self) -> int:
        told = [chunk["usage"]["completion_tokens"] for _, chunk in self.chunks if chunk.get("usage")]
        return int(told[-1]) if told else 0

    @property
    def ttft_s(self) -> float:
        return self.text_times_s[0] - self.sent_s

    @property
    def token_s(self) -> float:
        """Time per token after the first."""
        return (self.text_times_s[-1] - self.text_times_s[0]) / (self.completion_tokens - 1)

    @property
    def gaps_s(self) -> list[float]:
        """Inter-token latencies."""
        times_s = self.text_times_s
        return [later - earlier for earlier, later in itertools.pairwise(times_s)]

    def _pieces(self) -> Iterator[tuple[float, bytes]]:
        """The body without the framing of chunks, each piece with the time of its last byte."""
        whole = b"".join(data for _, data in self.blocks)
        ends, at = [], 0
        for _, data in self.blocks:
            at += len(data)
            ends.append(at)

        def arrived_s(position: int) -> float:
            return self.blocks[min(bisect_left(ends, position), len(ends) - 1)][0]

        at = len(self.head) + 4
        if b"chunked" not in self.head.lower():
            for end in ends:
                if end > at:
                    yield arrived_s(end), whole[at:end]
                    at = end
            return
        while (line_end := whole.find(b"\r\n", at)) > 0:
            size = int(whole[at:line_end], 16)
            yield arrived_s(line_end + 2 + size), whole[line_end + 2 : line_end + 2 + size]
            at = line_end + 4 + size
            if size == 0:
                return

    def _split(self, mark: bytes) -> Iterator[tuple[float, bytes]]:
        rest = b""
        for at_s, piece in self._pieces():
            *complete, rest = (rest + piece).split(mark)
            for event in complete:
                yield at_s, event


def _text(chunk: dict[str, Any]) -> str:
    choices = chunk.get("choices")
    return str(choices[0].get("delta", {}).get("content") or "") if choices else ""


async def begin(url: str, body: dict[str, Any]) -> Exchange:
    """Sends a request; the exchange goes on by itself."""
    return await begin_bytes(url, request_bytes(url, body))


async def begin_bytes(url: str, request: bytes) -> Exchange:
    place = urlsplit(url)
    _, exchange = await asyncio.get_running_loop().create_connection(
        lambda: Exchange(request), place.hostname or "127.0.0.1", place.port or 80
    )
    return exchange


async def ask(url: str, *bodies: dict[str, Any]) -> list[Reply]:
    """Sends all bodies at once; the complete answers, in their order. Raises when one was not complete."""
    exchanges = [await begin(url, body) for body in bodies]
    replies = [await exchange.reply() for exchange in exchanges]
    for reply in replies:
        assert reply.status == 200 and reply.done, (reply.status, reply.body[:500])
    return replies
