"""A spoken turn as bytes: its words as JSON, its length before it, then its ids as they are packed in memory."""

from __future__ import annotations

import json
from typing import Any, Final

from inference.conversation.spoken import RawTurn, SpokenTurn
from inference.messages import ToolCall
from mlxd.ledger.sealed import Unreadable, opened, sealed

VERSION: Final = 1
LENGTH_BYTES: Final = 4


def encoded(turn: SpokenTurn, place: bytes) -> bytes:
    calls = [[call.id, call.name, call.arguments] for call in turn.calls]
    words = json.dumps(
        [turn.text, turn.reasoning, calls, turn.raw.opener, turn.raw.thought_tokens],
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode("utf-8", "surrogatepass")
    return sealed(VERSION, place, len(words).to_bytes(LENGTH_BYTES) + words + turn.raw.packed)


def decoded(body: bytes, place: bytes) -> SpokenTurn | Unreadable:
    """The turn that was written at `place`; never another one."""
    content = opened(VERSION, place, body)
    if isinstance(content, Unreadable):
        return content
    try:
        ids_at = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES])
        words: Any = json.loads(content[LENGTH_BYTES:ids_at].decode("utf-8", "surrogatepass"))
        text, reasoning, calls, opener, thought_tokens = words
        raw = RawTurn(content[ids_at:], tuple(opener), thought_tokens)
        return SpokenTurn(raw, text, reasoning, tuple(ToolCall(*call) for call in calls))
    except (ValueError, TypeError, RecursionError):  # sealed by somebody who means something else by this version
        return Unreadable.DAMAGED
