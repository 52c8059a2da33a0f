"""What a lineage has read as bytes: its records as JSON, the length of that before it, and the keys of messages behind.

Records are objects of their fields, without those that have their default. Nearly all messages are known by their key
alone: of those `read` only has how many follow each other. A field that is new takes its default from older bodies;
when one changes its meaning, or goes, `VERSION` grows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from inference.conversation.lineage_memory import LineageMemory, Seen, SeenSpan
from inference.messages import Message, Role, TextPart, ToolCall
from mlxd.ledger.sealed import Unreadable, opened, sealed

VERSION: Final = 1
LENGTH_BYTES: Final = 4
KEY_BYTES: Final = 32

_beside_key = attrgetter(*(field.name for field in fields(Seen) if field.name != "key"))
_BARE: Final = _beside_key(Seen(b""))


def encoded(memory: LineageMemory, turn_id: str) -> bytes:
    read: list[Any] = []
    keys: list[bytes] = []
    for bare, run in groupby(memory.read, _is_bare):
        if bare:
            known = [seen.key for seen in run]
            keys += known
            read.append(len(known))
        else:
            read += map(_plain, run)
    told = _plain(replace(memory, read=())) | {"read": read}
    words = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return sealed(VERSION, turn_id.encode(), b"".join((len(words).to_bytes(LENGTH_BYTES), words, *keys)))


def _is_bare(seen: Seen) -> bool:
    return len(seen.key) == KEY_BYTES and _beside_key(seen) == _BARE


def decoded(body: bytes, turn_id: str, known: dict[bytes, Seen] | None = None) -> LineageMemory | Unreadable:
    """The memory that was written for this turn; never another one. `known` messages are shared, and added to."""
    content = opened(VERSION, turn_id.encode(), body)
    if isinstance(content, Unreadable):
        return content
    try:
        keys_at = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES])
        told = json.loads(content[LENGTH_BYTES:keys_at].decode("utf-8", "surrogatepass"))
        return _memory(content[keys_at:], {} if known is None else known, **told)
    except (ValueError, TypeError, RecursionError):
        return Unreadable.DAMAGED


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        named = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: _plain(one) for field, one in named if one != field.default}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, frozenset):
        return sorted(value)
    return value.hex() if isinstance(value, bytes) else value


def _memory(keys: bytes, known: dict[bytes, Seen], *, read: Any = (), minted: Any = (), **rest: Any) -> LineageMemory:
    return LineageMemory(read=tuple(_read(keys, known, read)), minted=frozenset(minted), **rest)


def _read(keys: bytes, known: dict[bytes, Seen], read: Any) -> Iterator[Seen]:
    at = 0
    for one in read:
        if not isinstance(one, int):
            yield _seen(**one)
            continue
        stop = at + one * KEY_BYTES
        if not at < stop <= len(keys):
            raise ValueError("fewer keys than messages")
        for start in range(at, stop, KEY_BYTES):
            key = keys[start : start + KEY_BYTES]
            seen = known.get(key)
            yield seen if seen is not None else known.setdefault(key, Seen(key))
        at = stop


def _seen(*, key: str = "", spans: Any = (), message: Any = None, **rest: Any) -> Seen:
    told = None if message is None else _message(**message)
    return Seen(bytes.fromhex(key), tuple(SeenSpan(**span) for span in spans), message=told, **rest)


def _message(*, role: str, parts: Any = (), tool_calls: Any = (), **rest: Any) -> Message:
    texts, calls = (TextPart(**part) for part in parts), (ToolCall(**call) for call in tool_calls)
    return Message(Role(role), tuple(texts), tool_calls=tuple(calls), **rest)
