"""Arguments of calls as JSON: values written between tags get the type that the tool's schema names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from inference.messages import Tool

_MAX_REFERENCES: Final = 8
_BRANCHES: Final = ("anyOf", "oneOf", "allOf")


def written(value: Any) -> str:
    """JSON text of a value, always encodable. Raises `ValueError` for what JSON cannot say (NaN, infinities)."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return text if _encodable(text) else json.dumps(value, allow_nan=False)


def parsed(text: str) -> Any:
    """The value of JSON text; line feeds inside of strings may stand as they are. Raises `ValueError`."""
    try:
        return json.loads(text, strict=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def typed(text: str, tool: Tool, key: str) -> Any:
    """A value written between tags. Without a type, or where the text is not of it, it stays the text.

    A parameter that may be a string is one, unless it may be null as well and says so.
    """
    types = _types_of(tool, key)
    if "string" in types:
        return None if "null" in types and text.strip() == "null" else text
    plain = text.strip()
    if "boolean" in types and plain in ("True", "False"):
        plain = plain.lower()
    try:
        value = parsed(plain)
        written(value)
    except ValueError:
        return text
    if isinstance(value, float) and value.is_integer() and "number" not in types and "integer" in types:
        value = int(value)
    return value if types & _names(value) else text


def is_text(tool: Tool, key: str) -> bool:
    """Whether `typed` leaves a value of that key the text it is, whatever it says."""
    types = _types_of(tool, key)
    return not types or ("string" in types and "null" not in types)


def _types_of(tool: Tool, key: str) -> frozenset[str]:
    properties = tool.parameters.get("properties")
    schema = properties.get(key) if isinstance(properties, Mapping) else None
    return _types(schema, tool.parameters, 0)


def _names(value: Any) -> frozenset[str]:
    """The names JSON schema has for a value's type."""
    match value:
        case None:
            return frozenset({"null"})
        case bool():
            return frozenset({"boolean"})
        case int():
            return frozenset({"integer", "number"})
        case float():
            return frozenset({"number"})
        case str():
            return frozenset({"string"})
        case list():
            return frozenset({"array"})
    return frozenset({"object"})


def _types(schema: Any, root: Mapping[str, Any], references: int) -> frozenset[str]:
    """The types a schema allows, as far as it says so plainly."""
    if not isinstance(schema, Mapping):
        return frozenset()
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(name for name in named if isinstance(name, str))
    if isinstance(reference := schema.get("$ref"), str) and references < _MAX_REFERENCES:
        return _types(_referred(reference, root), root, references + 1)
    if isinstance(values := schema.get("enum"), list):
        return frozenset().union(*map(_names, values))
    if "const" in schema:
        return _names(schema["const"])
    branches = [branch for word in _BRANCHES if isinstance(listed := schema.get(word), list) for branch in listed]
    if references >= _MAX_REFERENCES:  # a schema that refers to itself from its own branches
        return frozenset()
    return frozenset().union(*(_types(branch, root, references + 1) for branch in branches))


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    """What a reference within the same schema means; None for any other."""
    found: Any = root
    for step in reference.removeprefix("#/").split("/"):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, escaped in what the model wrote
        return False
    return True
