"""JSON schemas by chance: every string and array bounded, so that also a model of random weights comes to an end."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

FORMATS = ("date", "time", "date-time", "email", "uuid", "ipv4", "ipv6", "hostname", "uri", "duration")
PATTERNS = ("^[a-z]{2,6}$", "^[A-Z][a-z]{1,8}$", r"^\d{3}-\d{4}$", "^(red|green|blue)-[0-9]{1,2}$", r"^\w{1,10}$")
NAMES = ("name", "größe", "a b", "id", "value", "items", "type", "title", "x-1", "ünïcode 😀", "enum", "$ref", 'q"')
MAX_DEPTH = 4


def schemas(count: int, *, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Different schemas of objects, the same for the same seed."""
    for number in range(count):
        random = Random(seed * 1_000_003 + number)
        schema = _object(random, 0)
        if number % 4 == 0:  # the same value by reference, and once more within a list
            schema["$defs"] = {"part": _any(random, MAX_DEPTH - 1)}
            schema["properties"]["part"] = {"$ref": "#/$defs/part"}
            schema["properties"]["parts"] = {"type": "array", "items": {"$ref": "#/$defs/part"}, "maxItems": 2}
        yield schema


def _any(random: Random, depth: int) -> dict[str, Any]:
    plain = (_string, _pattern, _format, _enum, _const, _integer, _number, _boolean, _nullable)
    nested = (_object, _array, _union, _tuple, _all_of)
    makers = plain if depth >= MAX_DEPTH else plain + nested
    return random.choice(makers)(random, depth + 1)


def _object(random: Random, depth: int) -> dict[str, Any]:
    names = random.sample(NAMES, random.randint(1, 4))
    required = [name for name in names if random.random() < 0.7]
    properties = {name: _any(random, depth) for name in names}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _array(random: Random, depth: int) -> dict[str, Any]:
    least = random.randint(0, 2)
    return {"type": "array", "items": _any(random, depth), "minItems": least, "maxItems": least + random.randint(0, 2)}


def _tuple(random: Random, depth: int) -> dict[str, Any]:
    parts = [_any(random, depth) for _ in range(random.randint(1, 3))]
    return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}


def _union(random: Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_any(random, depth) for _ in range(random.randint(2, 3))]}


def _all_of(random: Random, _: int) -> dict[str, Any]:
    bounds = [{"minimum": random.randint(0, 9)}, {"maximum": random.randint(10, 99)}]
    return {"allOf": [{"type": "integer"}, *bounds]}


def _string(random: Random, _: int) -> dict[str, Any]:
    least = random.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + random.randint(0, 9)}


def _pattern(random: Random, _: int) -> dict[str, Any]:
    return {"type": "string", "pattern": random.choice(PATTERNS)}


def _format(random: Random, _: int) -> dict[str, Any]:
    return {"type": "string", "format": random.choice(FORMATS)}


def _enum(random: Random, _: int) -> dict[str, Any]:
    return {"enum": random.sample(["a", "b\n", "<tool_call>", "日本", 1, 2.5, None, True, [1, "x"], {"k": []}], 3)}


def _const(random: Random, _: int) -> dict[str, Any]:
    return {"const": random.choice(["fixed", 0, False, ["<|im_end|>"]])}


def _integer(random: Random, _: int) -> dict[str, Any]:
    if random.random() < 0.3:
        return {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700}
    low = random.randint(-1000, 1000)
    return {"type": "integer", "minimum": low, "maximum": low + random.randint(0, 500)}


def _number(random: Random, _: int) -> dict[str, Any]:
    return {"type": "number", "minimum": random.randint(-9, 0), "exclusiveMaximum": random.randint(1, 9)}


def _boolean(_: Random, __: int) -> dict[str, Any]:
    return {"type": "boolean"}


def _nullable(random: Random, _: int) -> dict[str, Any]:
    return {"type": ["string", "null"], "maxLength": random.randint(1, 6)}
