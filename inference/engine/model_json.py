"""JSON files of a model that may be hostile: a bounded read of plain objects, whatever the file really is.

Parsed JSON takes up to twenty-five times its text (`[],` is three bytes, its list 72), so its values are counted in the
text before it is parsed: 4 MB may otherwise become 110 MB.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inference.errors import InvalidModel

MAX_BYTES = 4 * 1024**2
MAX_VALUES = 200_000
"""Configs with a quantisation for each layer have 5,000, a tokenizer's with 6,000 added tokens 50,000."""
_MAX_DEPTH = 32
_BETWEEN_VALUES = (b",", b"[", b"{")


def read_object(path: Path) -> dict[str, Any]:
    """The object in a file. Raises `InvalidModel`, naming the file and never its directory."""
    name = path.name
    try:
        if not path.is_file():  # a pipe by that name would block the worker for ever
            raise InvalidModel(f"{name} is missing.")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError:
        raise InvalidModel(f"{name} cannot be read.") from None
    if len(raw) > MAX_BYTES:
        raise InvalidModel(f"{name} is larger than 4 MB.")
    if sum(map(raw.count, _BETWEEN_VALUES)) > MAX_VALUES:
        raise InvalidModel(f"{name} holds more than {MAX_VALUES} values.")
    return _parsed(raw, name)


def _parsed(raw: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode())
    except (ValueError, RecursionError):
        raise InvalidModel(f"{name} is not JSON.") from None
    if not isinstance(value, dict):
        raise InvalidModel(f"{name} is not a JSON object.")
    if _deeper_than(value, _MAX_DEPTH):
        raise InvalidModel(f"{name} is nested too deeply.")
    return value


def _deeper_than(value: object, depth: int) -> bool:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth == 0 or any(_deeper_than(child, depth - 1) for child in children)
