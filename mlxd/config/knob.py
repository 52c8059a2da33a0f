"""What one setting is: how it is described, named on a command line and in a variable, and shown to a person."""

from __future__ import annotations

import dataclasses
import types
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

ENV_PREFIX = "MLXD_"
REQUIRED = object()
"""Stands for the default of a setting that has none."""
AUTO = "auto"
"""How a size or a switch is written that mlxd chooses itself."""


@dataclass(frozen=True, slots=True)
class About:
    """What `Config` says about a field besides its type and default. `low` and `high` are inclusive, both or none."""

    group: str
    text: str
    low: float | None = None
    high: float | None = None
    flag: str | None = None
    short: str | None = None


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting as data. `kind` is its plain type; `default` is `REQUIRED` for the state directory."""

    name: str
    kind: type
    default: Any
    optional: bool
    choices: tuple[str, ...]
    about: About

    @property
    def flag(self) -> str:
        return f"--{self.about.flag or self.name.replace('_', '-')}"

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper()

    @property
    def repeatable(self) -> bool:
        return self.kind is tuple

    @property
    def has_auto(self) -> bool:
        """Whether mlxd chooses where nobody does, for which None stands."""
        return self.optional and (self.kind is bool or self.name.endswith("_bytes"))

    def takes(self, value: Any) -> bool:
        """Whether a JSON value has the type of this setting; null has that of each. The range is another matter."""
        if value is None or (self.has_auto and value == AUTO):
            return True
        if self.kind in (bool, tuple) or isinstance(value, bool):
            listed = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
            return listed if self.kind is tuple else self.kind is bool and isinstance(value, bool)
        if self.kind in (int, float):
            return isinstance(value, int | float) or (self.name.endswith("_bytes") and isinstance(value, str))
        return isinstance(value, str)

    @property
    def json_text(self) -> str:
        """The type of its JSON values."""
        if self.kind in (int, float):
            return 'a number of bytes, or a size as in "48GiB"' if self.name.endswith("_bytes") else "a number"
        others: dict[type, str] = {bool: "true or false", tuple: "a list of texts"}
        return others.get(self.kind, "a text")

    @property
    def default_text(self) -> str:
        """The default as a person would write it."""
        match self.default:
            case None if self.has_auto:
                return AUTO
            case None | () | "":
                return "unset"
            case bool(on):
                return "on" if on else "off"
            case int(count) if self.name.endswith("_bytes"):
                return _size(count)
            case float(number):
                return f"{number:g}"
            case value:
                return "the platform's data directory" if value is REQUIRED else str(value)

    @property
    def range_text(self) -> str:
        """What values are accepted, "" where any of the type is."""
        if self.choices:
            return " or ".join(self.choices)
        if self.about.low is None:
            return ""
        write = _size if self.name.endswith("_bytes") else _number
        return f"{write(self.about.low or 0)} to {write(self.about.high or 0)}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:g}"


def _size(count: float) -> str:
    """Bytes in the largest binary unit that divides them."""
    for power, unit in ((50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count and count % (1 << power) == 0:
            return f"{int(count) >> power} {unit}"
    return _number(count)


def knob_of(field: dataclasses.Field[Any], hint: Any) -> Knob:
    annotated, about = get_args(hint)[:2]
    optional = isinstance(annotated, types.UnionType)
    inner = get_args(annotated)[0] if optional else annotated
    choices = get_args(inner) if get_origin(inner) is Literal else ()
    kind = str if choices else get_origin(inner) or inner
    default = REQUIRED if field.default is dataclasses.MISSING else field.default
    return Knob(field.name, kind, default, optional, tuple(map(str, choices)), about)
