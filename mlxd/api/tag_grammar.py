"""Arguments that stand between tags, held to the tool's schema as far as text without quotes can be.

What is a string stands there as it is, so it is bound only by a list of texts; anything else is JSON. The reader of
such calls types each argument by the same schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from inference.messages import Tool
from mlxd.api.json_schema import enforceable
from mlxd.api.lark import SPACED, json_node, literal, text_until

_BINDING: Final = ("pattern", "format", "minLength", "maxLength", "anyOf", "oneOf", "allOf", "not", "if", "$ref")
_SHARED: Final = ("$defs", "definitions")


@dataclass(frozen=True, slots=True)
class Tags:
    """`opener` of a key in grammar, `feed` between a value and its `closer`, whose grammar is `closing`."""

    opener: Callable[[str], str]
    feed: str
    closer: str
    closing: str


class Kind(Enum):
    """How the value of one argument stands between its tags."""

    TEXT = "text"
    JSON = "json"


def arguments(rule: str, tool: Tool, tags: Tags) -> tuple[str, list[str]] | None:
    """A tool's arguments in the order of its schema, and the rules they need; None: not to be held to it in tags."""
    schema = enforceable(tool.parameters)
    properties = schema.get("properties", {})
    if not _fits(schema, properties):
        return None
    shared = {key: schema[key] for key in _SHARED if key in schema}
    names, rules = list[str](), list[str]()
    for number, (key, value) in enumerate(properties.items()):
        found = list(_argument(f"{rule}_{number}", key, value, shared, tool, tags))
        if not found:
            return None
        names.append(f"{rule}_{number}" + ("" if key in schema.get("required", ()) else "?"))
        rules += found
    return " ".join(names), rules


def _fits(schema: Mapping[str, Any], properties: Any) -> bool:
    if not isinstance(properties, Mapping) or any(word in schema for word in _BINDING):
        return False
    known = isinstance(required := schema.get("required", []), list) and all(key in properties for key in required)
    return known and schema.get("type", "object") == "object" and '"#/properties' not in json.dumps(schema)


def _argument(rule: str, key: str, schema: Any, shared: Mapping[str, Any], tool: Tool, tags: Tags) -> Iterator[str]:
    """The rules of one argument; none where it cannot stand in tags."""
    opener = tags.opener(key)
    texts, kind = _texts(schema), _kind(schema)
    closing = f"{literal(tags.feed)} {tags.closing}" if tags.feed else tags.closing
    if any(sign in key for sign in "<>\n"):
        return
    if texts:
        yield f'{rule}: {opener} ({" | ".join(map(literal, texts))}) {closing} "\\n"'
    elif kind is Kind.JSON:
        value = json_node({**shared, **schema}, SPACED, lenient=not tool.strict)
        yield f'{rule}: {opener} {value} {closing} "\\n"'
    elif kind is Kind.TEXT:
        yield f'{rule}: {opener} {rule}_text "\\n"'
        yield text_until(f"{rule}_text", tags.closing, tags.closer)


def _texts(schema: Any) -> list[str]:
    """The strings that are allowed, where they are listed and can stand between tags."""
    listed = schema.get("enum", [schema.get("const")]) if isinstance(schema, Mapping) else []
    fitting = isinstance(listed, list) and all(
        isinstance(text, str) and "</" not in text and text == text.strip("\n") for text in listed
    )
    return listed if fitting else []


def _kind(schema: Any) -> Kind | None:
    """How a value of that schema is written; None where text cannot be held to it."""
    if not isinstance(schema, Mapping):
        return None
    types = _types(schema)
    if types is None:
        return None
    if types and "string" not in types:
        return Kind.JSON
    bound = "enum" in schema or "const" in schema or any(word in schema for word in _BINDING if word != "anyOf")
    return None if bound else Kind.TEXT


def _types(schema: Mapping[str, Any]) -> set[str] | None:
    """The types it names, also as a choice of plain ones (a string or null); None: it does not say plainly."""
    named = schema.get("type")
    if isinstance(named, str):
        return {named}
    if isinstance(named, list):
        return {str(name) for name in named}
    choice = schema.get("anyOf")
    if isinstance(choice, list):
        plain = [one["type"] for one in choice if isinstance(one, Mapping) and set(one) == {"type"}]
        return set(map(str, plain)) if len(plain) == len(choice) else None
    return None if any(word in schema for word in (*_BINDING, "enum", "const")) else set()
