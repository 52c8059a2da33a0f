"""Counts the fields that clients send and no schema knows: what is ignored is at least seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

MAX_NAMES: Final = 256
OTHERS: Final = "(others)"

_counts: Counter[str] = Counter()


def count(schema: type[BaseModel], value: Mapping[str, Any]) -> None:
    """Notes the top-level names of `value` that `schema` has no field for. The table cannot grow without end."""
    for name in value.keys() - schema.model_fields.keys():
        shown = name[:64] if name.isprintable() else OTHERS
        _counts[shown if shown in _counts or len(_counts) < MAX_NAMES else OTHERS] += 1


def counts() -> dict[str, int]:
    """Times each name was ignored since the process started."""
    return dict(_counts.most_common())
