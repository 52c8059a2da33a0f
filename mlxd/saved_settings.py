"""What an admin set while mlxd ran: settings of the process and of single models, in a file that only we can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from mlxd.config import BY_NAME
from mlxd.model_schema import OwnSettings
from mlxd.paths import read_private, write_private
from mlxd.start_errors import InvalidSetting

MAX_CHARS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SavedSettings:
    """`knobs` by their names, `models` by their ids; values are JSON."""

    knobs: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_saved(path: Path) -> SavedSettings:
    """Empty where there is no file. Raises `InvalidSetting` for another's file and for one in which something is not
    what it should be, with its name, `UnsafeStateDir` as for secrets."""
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
    _check_knobs(path, knobs)
    _check_models(path, models)
    return SavedSettings(knobs, models)


def _check_knobs(path: Path, knobs: Mapping[str, Any]) -> None:
    """Their types; the ranges are looked at with those of flags and variables."""
    for name, value in knobs.items():
        if name in BY_NAME and not BY_NAME[name].takes(value):
            raise _wrong(path, name, f"must be {BY_NAME[name].json_text}")


def _check_models(path: Path, models: Mapping[str, Mapping[str, Any]]) -> None:
    """What a later version has saved is left alone."""
    for model_id, values in models.items():
        known = {name: value for name, value in values.items() if name in OwnSettings.model_fields}
        try:
            OwnSettings.model_validate(known)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise _wrong(
                path, ".".join(map(str, first["loc"])), f"of model {model_id[:64]!r}: {first['msg']}"
            ) from None


def _wrong(path: Path, name: str, why: str) -> InvalidSetting:
    return InvalidSetting(f"{path}: {name} {why}.", cure=f"Mend it, or begin without them: mv {path} {path}.old")


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
