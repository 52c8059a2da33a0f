"""Turns and tools as the plain data a chat template reads, every client string behind a sentinel."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from inference.conversation.sentinels import Sentinels, Text
from inference.conversation.shape import Shape
from inference.conversation.turns import Call, Turn
from inference.messages import Role, Tool

_SCHEMA_LANGUAGE = """
    type properties required description enum items default title format const anyOf oneOf allOf not nullable
    additionalProperties minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern
    minItems maxItems uniqueItems prefixItems minProperties maxProperties propertyNames patternProperties examples
    $ref $defs definitions $schema $id $comment deprecated readOnly writeOnly if then else contains"""
_SCHEMA_WORDS = frozenset(_SCHEMA_LANGUAGE.split())
_NAMED = frozenset({"properties", "$defs", "definitions", "patternProperties"})
_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_SHORT_ID = re.compile(r"[A-Za-z0-9]+")


def dress_turns(turns: Sequence[Turn], shape: Shape, sentinels: Sentinels) -> list[dict[str, Any]]:
    """One dict per turn, with only the keys that say something."""
    return [_message(turn, shape, sentinels) for turn in turns]


def _message(turn: Turn, shape: Shape, sentinels: Sentinels) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role.value, "content": _content(turn.parts, shape, sentinels)}
    if turn.reasoning:
        thought = sentinels.text(turn.reasoning, required=False)
        message |= {"reasoning_content": thought, "thinking": thought}
    if turn.calls:
        message["tool_calls"] = [_call(call, shape, sentinels) for call in turn.calls]
    if turn.role is Role.TOOL:
        message["tool_call_id"] = _id(Text(turn.call_id, f"{turn.path}.tool_call_id", turn.message), shape, sentinels)
        if turn.name.text:
            message["name"] = sentinels.name(turn.name)
    return message


def _content(parts: tuple[Text, ...], shape: Shape, sentinels: Sentinels) -> str | list[dict[str, str]]:
    if shape.content_list:
        return [{"type": "text", "text": sentinels.one(part)} for part in parts]
    return sentinels.text(parts)


def _id(identifier: Text, shape: Shape, sentinels: Sentinels) -> str:
    """Ids are names, except where the template insists on a length (Mistral: nine letters or digits)."""
    size = shape.id_chars
    if not size or (len(identifier.text) == size and _SHORT_ID.fullmatch(identifier.text)):
        return sentinels.name(identifier)
    sentinels.counts["short_ids"] += 1
    return hashlib.sha256(identifier.text.encode("utf-8", "replace")).hexdigest()[:size]


def _call(call: Call, shape: Shape, sentinels: Sentinels) -> dict[str, Any]:
    message = call.arguments.message
    name = sentinels.name(Text(call.name, f"{call.path}.function.name", message))
    return {
        "type": "function",
        "id": _id(Text(call.id, f"{call.path}.id", message), shape, sentinels),
        "function": {"name": name, "arguments": _arguments(call.arguments, shape, sentinels)},
    }


def _arguments(arguments: Text, shape: Shape, sentinels: Sentinels) -> Any:
    parsed = parse_arguments(arguments.text)
    if not shape.arguments_mapping:
        return sentinels.one(arguments) if arguments.text.strip() else "{}"
    if parsed is None:
        sentinels.counts["raw_arguments"] += 1
        raw = sentinels.one(arguments)
        return raw if shape.raw_arguments else {"arguments": raw}
    return _value(parsed, arguments.path, arguments.message, sentinels)


def parse_arguments(text: str) -> dict[str, Any] | None:
    """The object that `text` spells, or None when it is not one JSON object that says the same when written again.

    Blank text is an empty object: models call functions without parameters that way.
    """
    if not text.strip():
        return {}
    try:
        parsed = json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_refuse, parse_float=_finite_float
        )
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("duplicate key")
    return made


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("out of range")
    return number


def _value(value: Any, path: str, message: int, sentinels: Sentinels) -> Any:
    match value:
        case str():
            return sentinels.one(Text(value, path, message))
        case Mapping():
            return {
                sentinels.name(Text(key, f"{path}.{key}", message)): _value(item, f"{path}.{key}", message, sentinels)
                for key, item in value.items()
            }
        case list() | tuple():
            return [_value(item, f"{path}[{at}]", message, sentinels) for at, item in enumerate(value)]
        case _:
            return value


def dress_tools(tools: Sequence[Tool], shape: Shape, sentinels: Sentinels) -> list[dict[str, Any]]:
    """The tools as OpenAI's function objects, which is what templates are written for."""
    return [_tool(tool, tool.path or f"tools[{at}].function", shape, sentinels) for at, tool in enumerate(tools)]


def _tool(tool: Tool, here: str, shape: Shape, sentinels: Sentinels) -> dict[str, Any]:
    function: dict[str, Any] = {"name": sentinels.name(Text(tool.name, f"{here}.name"))}
    if tool.description or shape.needs_description:
        description = tool.description.replace("\r\n", "\n")
        function["description"] = sentinels.one(Text(description, f"{here}.description"))
    function["parameters"] = _schema(tool.parameters, f"{here}.parameters", sentinels)
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _schema(schema: Any, path: str, sentinels: Sentinels, *, named: bool = False) -> Any:
    """A JSON schema: its own words and type names stay, because templates look at them; the rest is client text.

    `named`: the keys of this object are names the client chose (properties), not words of the schema language.
    """
    if not isinstance(schema, Mapping):
        return _schema_leaf(schema, path, sentinels)
    dressed = {}
    for key, value in schema.items():
        here = f"{path}.{key}"
        written = key if key in _SCHEMA_WORDS and not named else sentinels.name(Text(key, here))
        dressed[written] = _schema_value(key, value, here, sentinels, named)
    return dressed


def _schema_value(key: str, value: Any, path: str, sentinels: Sentinels, named: bool) -> Any:
    if named:
        return _schema(value, path, sentinels)
    if key == "type":
        return _types(value, path, sentinels)
    if key == "required" and isinstance(value, list | tuple):
        return [
            sentinels.name(Text(name, f"{path}[{at}]")) if isinstance(name, str) else _schema(name, path, sentinels)
            for at, name in enumerate(value)
        ]
    return _schema(value, path, sentinels, named=key in _NAMED)


def _types(value: Any, path: str, sentinels: Sentinels) -> Any:
    if isinstance(value, str):
        return value if value in _TYPES else sentinels.name(Text(value, path))
    if isinstance(value, list | tuple):
        return [_types(one, f"{path}[{at}]", sentinels) for at, one in enumerate(value)]
    return _schema(value, path, sentinels)


def _schema_leaf(value: Any, path: str, sentinels: Sentinels) -> Any:
    if isinstance(value, list | tuple):
        return [_schema(item, f"{path}[{at}]", sentinels) for at, item in enumerate(value)]
    if isinstance(value, str):
        return sentinels.one(Text(value, path), required=False)
    return value
