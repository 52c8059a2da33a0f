"""What a lineage has read as bytes: JSON of its records, compressed, because it repeats itself.

Records are objects of their fields, without those that have their default; a message that is only known by its key,
as nearly all are, is that key. A field that is new therefore takes its default from older bodies; when one changes its
meaning, or goes, `VERSION` grows.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final

from inference.conversation.lineage_memory import LineageMemory, Seen, SeenSpan
from inference.messages import Message, Role, TextPart, ToolCall
from mlxd.ledger.sealed import Unreadable, opened, sealed

VERSION: Final = 1
MAX_CONTENT_BYTES: Final = 64 << 20
"""A body that unpacks to more was not written here."""


def encoded(memory: LineageMemory, turn_id: str) -> bytes:
    told = _plain(replace(memory, read=())) | {"read": [_plain_seen(one) for one in memory.read]}
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    return sealed(VERSION, turn_id.encode(), zlib.compress(text.encode("utf-8", "surrogatepass"), 1))


def decoded(body: bytes, turn_id: str) -> LineageMemory | Unreadable:
    """The memory that was written for this turn; never another one."""
    content = opened(VERSION, turn_id.encode(), body)
    if isinstance(content, Unreadable):
        return content
    try:
        told = zlib.decompressobj().decompress(content, MAX_CONTENT_BYTES)
        return _memory(**json.loads(told.decode("utf-8", "surrogatepass")))
    except (zlib.error, ValueError, TypeError, RecursionError):
        return Unreadable.DAMAGED


def _plain_seen(seen: Seen) -> Any:
    return seen.key.hex() if seen == Seen(seen.key) else _plain(seen)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        named = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: _plain(one) for field, one in named if one != field.default}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, frozenset):
        return sorted(value)
    return value.hex() if isinstance(value, bytes) else value


def _memory(*, read: Any = (), minted: Any = (), **rest: Any) -> LineageMemory:
    return LineageMemory(read=tuple(map(_seen, read)), minted=frozenset(minted), **rest)


def _seen(told: Any) -> Seen:
    return Seen(bytes.fromhex(told)) if isinstance(told, str) else _whole_seen(**told)


def _whole_seen(*, key: str, spans: Any = (), message: Any = None, **rest: Any) -> Seen:
    told = None if message is None else _message(**message)
    return Seen(bytes.fromhex(key), tuple(SeenSpan(**span) for span in spans), message=told, **rest)


def _message(*, role: str, parts: Any = (), tool_calls: Any = (), **rest: Any) -> Message:
    texts, calls = (TextPart(**part) for part in parts), (ToolCall(**call) for call in tool_calls)
    return Message(Role(role), tuple(texts), tool_calls=tuple(calls), **rest)
