"""What an admin set while mlxd ran: settings of the process and of single models, in a file that only we can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlxd.paths import read_private, write_private
from mlxd.start_errors import InvalidSetting

MAX_CHARS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SavedSettings:
    """`knobs` by their names, `models` by their ids; values are JSON."""

    knobs: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_saved(path: Path) -> SavedSettings:
    """Empty where there is no file. Raises `InvalidSetting` for another's file, `UnsafeStateDir` as for secrets."""
    text = read_private(path, MAX_CHARS)
    if text is None:
        return SavedSettings()
    try:
        found = json.loads(text)
        knobs, models = found["knobs"], found["models"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _unreadable(path) from None
    if (
        not isinstance(knobs, dict)
        or not isinstance(models, dict)
        or not all(isinstance(one, dict) for one in models.values())
    ):
        raise _unreadable(path)
    return SavedSettings(knobs, models)


def write_saved(path: Path, saved: SavedSettings) -> None:
    """All of it or nothing. Raises `UnsafeStateDir` where the disk will not have it, `InvalidSetting` for more than
    the next start would read."""
    text = json.dumps({"knobs": dict(saved.knobs), "models": dict(saved.models)}, indent=1) + "\n"
    if len(text) > MAX_CHARS:
        raise InvalidSetting(f"Saved settings may have {MAX_CHARS:,} characters in all, and these have {len(text):,}.")
    write_private(path, text)


def _unreadable(path: Path) -> InvalidSetting:
    return InvalidSetting(
        f"{path} cannot be read as saved settings.", cure=f"To begin without them: mv {path} {path}.old"
    )
