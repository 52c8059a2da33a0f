"""Settings: `Config` and its knobs are plain data; `load` (which imports pydantic) fills and checks one."""

from __future__ import annotations

from mlxd.config.addresses import is_loopback, refuse_exposed_host
from mlxd.config.knob import REQUIRED, Knob
from mlxd.config.knobs import BY_ENV, BY_NAME, GROUPS, KNOBS, Config
from mlxd.config.model_argument import ModelArgument, is_model_name, model_argument

__all__ = [
    "BY_ENV",
    "BY_NAME",
    "GROUPS",
    "KNOBS",
    "REQUIRED",
    "Config",
    "Knob",
    "ModelArgument",
    "is_loopback",
    "is_model_name",
    "model_argument",
    "refuse_exposed_host",
]
