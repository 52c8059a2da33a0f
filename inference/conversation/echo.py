"""Whether a message a client sends back is a turn that the model spoke.

A client may spell arguments anew, trim text and reasoning, drop reasoning, take the punctuation out of ids: the meaning
stays. Three rewordings are known of real clients and let pass: an argument added with an empty value or with the
default of the tool's schema, blanks taken off the ends of lines inside of a string, and a thought of which only the end
is left: OpenAI's library for Node puts a streamed answer together, and of a field that it does not know it keeps the
last piece. Anything else is an edit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from inference.conversation.canonical import bare_id, canonical_arguments, canonical_json, joined_text
from inference.conversation.dress import parse_arguments
from inference.conversation.spoken import SpokenTurn
from inference.conversation.turns import Call, Turn
from inference.messages import Tool, ToolCall

_ABSENT = object()


class Outcome(StrEnum):
    """What became of an assistant's message. All but the last two are rendered from what the model produced.

    `not_needed`: sent back to the letter. `healed`: the same meaning in another form. `healed_normalised`: with a
    known rewording. `refused_edited`: it says something else, and is rendered as the client says it. `not_found`: no
    turn is known of which this could be the echo, or several.
    """

    NOT_NEEDED = "not_needed"
    HEALED = "healed"
    HEALED_NORMALISED = "healed_normalised"
    REFUSED_EDITED = "refused_edited"
    NOT_FOUND = "not_found"


def compared(turn: Turn, spoken: SpokenTurn, tools: Mapping[str, Tool]) -> Outcome:
    """How a message relates to a turn that was found for it; never `not_found`."""
    claimed = "".join(part.text for part in turn.reasoning)
    if joined_text(turn).strip() != _feeds(spoken.text).strip() or not _end_of_thought(claimed, spoken.reasoning):
        return Outcome.REFUSED_EDITED
    if len(turn.calls) != len(spoken.calls):
        return Outcome.REFUSED_EDITED
    pairs = list(zip(turn.calls, spoken.calls, strict=True))
    if any(call.name != said.name or bare_id(call.id) != bare_id(said.id) for call, said in pairs):
        return Outcome.REFUSED_EDITED
    if (
        joined_text(turn) == spoken.text
        and claimed == spoken.reasoning
        and all(_to_the_letter(*pair) for pair in pairs)
    ):
        return Outcome.NOT_NEEDED
    changed = [(call, said) for call, said in pairs if not _same_arguments(call, said)]
    if not changed:
        return Outcome.HEALED if _same_thought(claimed, spoken.reasoning) else Outcome.HEALED_NORMALISED
    if all(_reworded_call(call, said, tools.get(call.name)) for call, said in changed):
        return Outcome.HEALED_NORMALISED
    return Outcome.REFUSED_EDITED


def _same_thought(claimed: str, said: str) -> bool:
    return not claimed.strip() or claimed.strip() == _feeds(said).strip()


def _end_of_thought(claimed: str, said: str) -> bool:
    """All of it, or less from its beginning on; nothing is the end of every thought."""
    return _feeds(said).strip().endswith(claimed.strip())


def _to_the_letter(call: Call, said: ToolCall) -> bool:
    return call.id == said.id and call.arguments.text == said.arguments


def _same_arguments(call: Call, said: ToolCall) -> bool:
    return canonical_arguments(call.arguments.text) == canonical_arguments(_feeds(said.arguments))


def _feeds(text: str) -> str:
    """As `turns_of` has set the line feeds of what the client sent."""
    return text.replace("\r\n", "\n")


# --- rewordings -------------------------------------------------------------------------------------------------


def _reworded_call(call: Call, said: ToolCall, tool: Tool | None) -> bool:
    claimed, meant = parse_arguments(call.arguments.text), parse_arguments(said.arguments)
    if claimed is None or meant is None:
        return False
    try:
        return _reworded(claimed, meant, tool.parameters if tool else {})
    except (RecursionError, ValueError):
        return False


def _reworded(claimed: Any, meant: Any, schema: Any) -> bool:
    """Whether `claimed` says what `meant` says, up to the known rewordings of arguments."""
    match claimed, meant:
        case dict(), dict():
            known = _object(_object(schema).get("properties"))
            return claimed.keys() >= meant.keys() and all(
                _reworded(value, meant[key], known.get(key)) if key in meant else _says_nothing(value, known.get(key))
                for key, value in claimed.items()
            )
        case list(), list():
            inner = _object(schema).get("items")
            return len(claimed) == len(meant) and all(
                _reworded(one, other, inner) for one, other in zip(claimed, meant, strict=True)
            )
        case str(), str():
            return claimed == meant or _trimmed_lines(claimed.split("\n"), meant.split("\n"))
        case _:
            return canonical_json(claimed) == canonical_json(meant)


def _says_nothing(value: Any, schema: Any) -> bool:
    """An added value that is empty, or what the tool takes anyway."""
    if value in ("", 0, None) or value == [] or value == {}:  # 0 is also 0.0 and False
        return True
    default = _object(schema).get("default", _ABSENT)
    return default is not _ABSENT and canonical_json(value) == canonical_json(default)


def _trimmed_lines(claimed: list[str], meant: list[str]) -> bool:
    return len(claimed) == len(meant) and all(
        one in (other, other.rstrip(" \t")) for one, other in zip(claimed, meant, strict=True)
    )


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def named(tools: Iterable[Tool]) -> dict[str, Tool]:
    return {tool.name: tool for tool in tools}
