"""The last tool calls that could not be read: what the model wrote, which dialect was tried, what came of it.

Kept in memory only, because they hold text of answers; the log gets a line without any of it.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Final

import structlog

from inference.streaming.pieces import BrokenCall

MAX_RECORDS: Final = 64

events = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MalformedCall:
    """One of them. `raw` is the first of `chars` characters; `at_s` is Unix time.

    `result`: `content` where the client got it as text, `unfinished` where a call had been begun for it.
    """

    at_s: float
    request_id: str
    model: str
    dialect: str
    reason: str
    result: str
    chars: int
    raw: str


class MalformedCalls:
    """A ring of `MAX_RECORDS`; written from the worker thread, read from any."""

    def __init__(self) -> None:
        self._ring: deque[MalformedCall] = deque(maxlen=MAX_RECORDS)

    def note(self, request_id: str, model: str, broken: BrokenCall) -> None:
        result = "unfinished" if broken.shown else "content"
        self._ring.append(
            MalformedCall(
                time.time(), request_id, model, broken.dialect, broken.reason, result, broken.chars, broken.raw
            )
        )
        events.warning(
            "malformed tool call",
            request_id=request_id,
            model=model,
            dialect=broken.dialect,
            reason=broken.reason,
            result=result,
            chars=broken.chars,
        )

    def newest_first(self) -> tuple[MalformedCall, ...]:
        return tuple(reversed(self._ring.copy()))
