"""Records as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """`value` with tuples and sets as lists and paths as text, so that any JSON writer takes it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Set):
        return sorted(plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
