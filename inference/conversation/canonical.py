"""What a message means, apart from how it was written: the form in which echoes and histories are compared.

Equal are: text as a string or in parts, "" and null and absent, CRLF and LF, a tool call's id with and without its
punctuation, arguments as any JSON of the same values, an assistant's text and reasoning with and without blanks around
them, a result with its function's name and without. Everything else is a difference. Paths, item ids and marks such as
`cache_control` are no part of a `Message` to begin with.

A `Prefix` stands for a whole history: a chain of SHA-256 over its tools and messages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference.conversation.dress import parse_arguments
from inference.conversation.turns import Call, Turn
from inference.messages import Role, Tool


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a conversation, up to and including its last message. Equal digests are equal in meaning."""

    digest: bytes

    @classmethod
    def of(cls, scope: str, tools: bytes) -> Prefix:
        """Before the first message. `scope` parts what must never be mixed: models, and clients of their own. `tools`
        is the digest of all tools."""
        return cls(_digest([scope, tools.hex()]))

    def then(self, message: bytes) -> Prefix:
        """With one more message, given as its digest."""
        return Prefix(hashlib.sha256(self.digest + message).digest())


def message_digest(turn: Turn) -> bytes:
    """Equal for messages that are equal in meaning."""
    return _digest(canonical_turn(turn))


def tools_digest(tools: Sequence[Tool]) -> bytes:
    """Of all tools, in their order; their schemas by value."""
    return _digest([[tool.name, tool.description, canonical_value(tool.parameters), tool.strict] for tool in tools])


def canonical_turn(turn: Turn) -> list[Any]:
    """A message's meaning as plain JSON; two are the same when these are equal.

    Turns come from `turns_of`, which has set line feeds, thoughts and the names of results.
    """
    text, reasoning = joined_text(turn), "".join(part.text for part in turn.reasoning)
    if turn.role is not Role.ASSISTANT:
        return [turn.role.value, text, bare_id(turn.call_id), turn.name.text]
    calls = [canonical_call(call) for call in turn.calls]
    return [turn.role.value, text.strip(), reasoning.strip(), calls]


def canonical_call(call: Call) -> list[str]:
    return [bare_id(call.id), call.name, canonical_arguments(call.arguments.text)]


def joined_text(turn: Turn) -> str:
    return "".join(part.text for part in turn.parts)


def bare_id(identifier: str) -> str:
    """Letters and digits of an id: clients take the punctuation out. An id without any stays as it is."""
    return "".join(filter(str.isalnum, identifier)) or identifier


def canonical_arguments(text: str) -> str:
    """One spelling for all JSON objects of the same values; other text (see `parse_arguments`) is only equal to itself.

    `true` is not `1`, `50.0` is `50`, `-0.0` is `0`; integers are compared exactly, fractions as doubles.
    """
    parsed = parse_arguments(text)
    try:
        return text if parsed is None else canonical_json(parsed)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        return text


def canonical_json(value: Any) -> str:
    return json.dumps(canonical_value(value), sort_keys=True, separators=(",", ":"))


def canonical_value(value: Any) -> Any:
    """The same JSON value with one form for each number."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {str(key): canonical_value(item) for key, item in value.items()}
        case list() | tuple():
            return [canonical_value(item) for item in value]
        case _:
            return value


def _digest(value: list[Any]) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).digest()
