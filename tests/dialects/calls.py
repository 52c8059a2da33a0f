"""The calls that the dialects are tested with, and what an answer is made of: texts and calls."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from inference.messages import Tool

Call = tuple[str, dict[str, Any]]
Said = list[str | Call]

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "note": {"type": ["string", "null"]},
        "count": {"type": "integer"},
        "ratio": {"type": "number"},
        "deep": {"type": "boolean"},
        "items": {"type": "array"},
        "options": {"type": "object"},
    },
}
TOOLS = (Tool("look", "", SCHEMA), Tool("web_search", "", SCHEMA), Tool("mcp__files__read", "", SCHEMA))
NAMES = tuple(tool.name for tool in TOOLS)

PLAIN: tuple[tuple[Call, ...], ...] = (
    (("look", {}),),
    (("look", {"text": "Paris"}),),
    (("web_search", {"text": "a b", "count": 3, "deep": True}),),
    (("look", {"ratio": 0.5, "items": [1, "two", None], "options": {"a": {"b": [True]}}}),),
    (("look", {"text": "one"}), ("web_search", {"text": "two"}), ("look", {})),
    (("mcp__files__read", {"text": "Zürich — 東京 🚀", "options": {}, "items": []}),),
    (("look", {"text": "first\nsecond\n\n\tthird", "count": -12}),),
    (("look", {"text": 'says "hi", it\'s {odd} [x] (y) \\ back', "options": {"k": 'q"{'}}),),
    (("look", {"text": ""}),),
)
"""Answers as models give them, plain ones first."""

WORDS = (
    "a",
    "Paris",
    " ",
    "\n",
    '"',
    "'",
    "\\",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ",",
    ":",
    "=",
    "é",
    "🚀",
    "0",
    "<",
    ">",
    "|",
)


def folded(said: Iterable[str | Call]) -> Said:
    """Neighbouring texts joined; texts of nothing but white space beside a call belong to the call."""
    joined: Said = []
    for piece in said:
        if isinstance(piece, str) and joined and isinstance(last := joined[-1], str):
            joined[-1] = last + piece
        elif piece:
            joined.append(piece)
    calls = any(not isinstance(piece, str) for piece in joined)
    return [piece for piece in joined if not (calls and isinstance(piece, str) and piece.isspace())]


def word(chance: random.Random, avoid: Sequence[str], size: int = 12) -> str:
    """A random text without any of `avoid` in it."""
    while True:
        text = "".join(chance.choice(WORDS) for _ in range(chance.randint(0, size)))
        if not any(one in text for one in avoid):
            return text


def value(chance: random.Random, avoid: Sequence[str], depth: int = 2) -> Any:
    kind = chance.randint(0, 7 if depth else 4)
    match kind:
        case 0:
            return chance.randint(-1000, 1000)
        case 1:
            return chance.choice([0.5, -2.25, 1e30])
        case 2:
            return chance.choice([True, False, None])
        case 3 | 4:
            return word(chance, avoid)
        case 5 | 6:
            return [value(chance, avoid, depth - 1) for _ in range(chance.randint(0, 3))]
    return {key: value(chance, avoid, depth - 1) for key in chance.sample(["a", "b_c", "d1"], chance.randint(0, 3))}


def arguments(chance: random.Random, avoid: Sequence[str]) -> dict[str, Any]:
    """Random arguments of `SCHEMA`, in random order."""
    made = {
        "text": word(chance, avoid),
        "note": chance.choice(["x", word(chance, (*avoid, "null"))]),
        "count": chance.randint(-99, 99),
        "ratio": chance.choice([0.5, 12.25]),
        "deep": chance.choice([True, False]),
        "items": [value(chance, avoid) for _ in range(chance.randint(0, 3))],
        "options": {key: value(chance, avoid) for key in chance.sample(["a", "b_c"], chance.randint(0, 2))},
    }
    return {key: made[key] for key in chance.sample(sorted(made), chance.randint(0, len(made)))}


def random_calls(chance: random.Random, avoid: Sequence[str]) -> tuple[Call, ...]:
    return tuple((chance.choice(NAMES), arguments(chance, avoid)) for _ in range(chance.randint(1, 3)))
