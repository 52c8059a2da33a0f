"""What the ledger says of two turns, for people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

TURN_ID: Final = re.compile(r"[0-9a-f]{32}")
NOT_KEPT: Final = "what it says is not kept"


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The answer of `/api/turns/{left}/against/{right}` in words."""
    left, right, common, message = found["left"], found["right"], found["messages_in_common"], found["message"]
    yield f"{common} messages in common, of {left['messages']} and {right['messages']}."
    if found["tools_differ"]:
        yield "Their tools differ."
    if message is not None:
        first = f"messages[{message}]" if found["exact"] else f"one of messages[{common}] to messages[{message}]"
        yield f"The first that differs is {first}."
        yield from (f"{name + ':':<7} {_shown(side)}" for name, side in (("left", left), ("right", right)))
    elif not found["exact"]:
        yield "Whether one begins with the other cannot be said: too little is kept of them."
    for name, side in (("left", left), ("right", right)):
        yield from _recorded(name, side["diverged"])
    yield "Of what clients send a hash is kept, no text: `mlxd probe diff` of two bodies shows it."


def same(found: dict[str, Any]) -> bool:
    """Whether both are one request, as far as can be known."""
    as_long = found["left"]["messages"] == found["right"]["messages"]
    return bool(found["message"] is None and found["exact"] and as_long and not found["tools_differ"])


def _shown(side: dict[str, Any]) -> str:
    return (
        f"{side['role'] or 'user or tool'}: {side['text']!r}" if side["text"] else f"{side['role'] or '?'}: {NOT_KEPT}"
    )


def _recorded(name: str, diverged: dict[str, Any] | None) -> Iterator[str]:
    """Where the prompt of a turn left what its session had stored."""
    if diverged is None:
        return
    place = diverged["path"] or "the template"
    yield f"{name} left what its session had stored at token {diverged['token']}, from {place}{_ruled(diverged)}"
    if "before" in diverged:
        yield f"        ...{diverged['before']!r} then {diverged['sent']!r}, stored was {diverged['stored']!r}"


def _ruled(diverged: dict[str, Any]) -> str:
    return f", found by the rule {diverged['rule']}." if diverged["rule"] else "."
