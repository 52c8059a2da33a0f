"""Fills a `Config`: flag over what an admin saved over environment over the state directory's `.env` over default.

It says of each value where it came from.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, ValidationError, create_model
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    SettingsConfigDict,
)

from mlxd.config.knob import AUTO, ENV_PREFIX, REQUIRED, Knob
from mlxd.config.knobs import BY_ENV, BY_NAME, KNOBS, Config
from mlxd.start_errors import InvalidSetting

SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]i?B?|B)?", re.IGNORECASE)
POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}
SHOWN_CHARS = 64


class Origin(StrEnum):
    """Where a value came from, in the order in which they win."""

    FLAG = "flag"
    SAVED = "saved"
    ENVIRONMENT = "environment"
    DOTENV = ".env"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A `Config`, the origin of each of its values by knob name, and what looked odd on the way.

    `beneath` is what it would be, and why, had an admin saved nothing.
    """

    config: Config
    origins: Mapping[str, Origin]
    warnings: tuple[str, ...] = ()
    beneath: LoadedConfig | None = None


def load(flags: Mapping[str, Any], state_dir: Path, saved: Mapping[str, Any] | None = None) -> LoadedConfig:
    """Reads the settings. `flags` holds only what was given on the command line, `saved` what an admin saved, by knob
    name.

    `state_dir` is already resolved (see `mlxd.paths`); its `.env` is the only one that is read. Raises
    `InvalidSetting`, which names the setting, where it was set, and what it may be.
    """
    dotenv = state_dir / ".env"
    layers = {
        Origin.FLAG: InitSettingsSource(_Settings, init_kwargs=dict(flags))(),
        Origin.SAVED: {name: value for name, value in (saved or {}).items() if name in BY_NAME},
        Origin.ENVIRONMENT: EnvSettingsSource(_Settings)(),
        Origin.DOTENV: _dotenv_values(dotenv),
    }
    values: dict[str, Any] = {}
    origins = dict.fromkeys(BY_NAME, Origin.DEFAULT)
    for origin, layer in reversed(layers.items()):
        for name, value in layer.items():
            values[name], origins[name] = value, origin
    values["state_dir"] = state_dir
    try:
        checked = _Settings.model_validate(values)
    except ValidationError as error:
        raise _invalid(error, origins) from None
    beneath = load(flags, state_dir) if layers[Origin.SAVED] else None
    return LoadedConfig(_config(checked), origins, tuple(_odd_names(dotenv)), beneath)


def amended(config: Config, changes: Mapping[str, Any]) -> Config:
    """The same settings with some changed. Raises `InvalidSetting` for the first that is wrong."""
    now = {knob.name: getattr(config, knob.name) for knob in KNOBS}
    try:
        return _config(_Settings.model_validate({**now, **changes}))
    except ValidationError as error:
        raise _invalid(error, dict.fromkeys(BY_NAME, Origin.SAVED)) from None


def _config(checked: BaseSettings) -> Config:
    return Config(**{knob.name: getattr(checked, knob.name) for knob in KNOBS})


def size_bytes(value: object) -> object:
    """`32MiB`, `1.5 GB` or `1024` as bytes; anything else is handed on for pydantic to refuse.

    >>> size_bytes("2KiB"), size_bytes("1 kB"), size_bytes("7")
    (2048, 1000, 7)
    """
    found = SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return value
    unit = (found["unit"] or "").upper()
    base = 1024 if "I" in unit or len(unit) == 1 else 1000
    return int(Decimal(found["number"]) * base ** POWERS.get(unit[:1], 0))


def _auto(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == AUTO else value


def _split(value: object) -> object:
    """A list in a variable is written with commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _field(knob: Knob) -> tuple[Any, Any]:
    kind: Any = Literal[knob.choices] if knob.choices else knob.kind
    if knob.repeatable:
        kind = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
    elif knob.name.endswith("_bytes"):
        kind = Annotated[int, BeforeValidator(size_bytes)]
    limits: dict[str, Any] = {} if knob.about.low is None else {"ge": knob.about.low, "le": knob.about.high}
    if knob.kind is float:
        limits["allow_inf_nan"] = False
    kind = Annotated[kind, Field(**limits)] if limits else kind
    default = ... if knob.default is REQUIRED else knob.default
    if knob.optional:
        kind = Annotated[kind | None, BeforeValidator(_auto)] if knob.has_auto else kind | None
    return (kind, Field(default, description=knob.about.text))


class _Base(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        str_strip_whitespace=True,
        hide_input_in_errors=True,
    )


_Settings: type[BaseSettings] = create_model(
    "Settings", __base__=_Base, **cast(dict[str, Any], {knob.name: _field(knob) for knob in KNOBS})
)


def _dotenv_values(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        source = DotEnvSettingsSource(
            _Settings, env_file=path, env_file_encoding="utf-8", dotenv_filtering="only_existing"
        )
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{path} cannot be read: {type(error).__name__}.") from error
    values = source()
    values.pop("state_dir", None)
    return values


def _invalid(error: ValidationError, origins: Mapping[str, Origin]) -> InvalidSetting:
    """One message for the first wrong setting. The value itself is not repeated: it may be anything."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    knob = BY_NAME[str(first["loc"][0])]
    where = {
        Origin.FLAG: knob.flag,
        Origin.SAVED: f"The saved setting {knob.name}",
        Origin.ENVIRONMENT: knob.env,
        Origin.DOTENV: f"{knob.env} in the state directory's .env",
        Origin.DEFAULT: knob.name,
    }[origins[knob.name]]
    rule = f" Accepted: {knob.range_text}." if knob.range_text else ""
    return InvalidSetting(f"{where}: {first['msg'][:200]}.{rule}", cure=f"{knob.name}: {knob.about.text}")


def _odd_names(dotenv: Path) -> list[str]:
    """Variables that look meant for mlxd and are not read, each with the nearest name that is."""
    from dotenv import dotenv_values

    found = [(name, "the environment") for name in sorted(os.environ)]
    in_file = sorted(dotenv_values(dotenv, interpolate=False)) if dotenv.is_file() else []
    odd = [_unknown(name, place) for name, place in [*found, *((name, str(dotenv)) for name in in_file)]]
    if BY_NAME["state_dir"].env in in_file:
        odd.append(f"MLXD_STATE_DIR in {dotenv} is not read: the file lies in the state directory.")
    return [text for text in odd if text]


def _unknown(name: str, place: str) -> str:
    upper = name.upper()
    if not upper.startswith(ENV_PREFIX) or upper in BY_ENV:
        return ""
    near = difflib.get_close_matches(upper, BY_ENV, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{name[:SHOWN_CHARS]} in {place} is not a setting of mlxd and is ignored.{hint}"
