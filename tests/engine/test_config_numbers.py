"""Numbers of a config that a model could be built with and not compute with, and those that look odd and are meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference.engine.model_config import read_config
from inference.errors import InvalidModel

NAN, INFINITY = float("nan"), float("inf")


def config(directory: Path, **changes: Any) -> Path:
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen3", **changes}))
    return directory


@pytest.mark.parametrize("where", ["", "text_config"])
@pytest.mark.parametrize("key", ["rms_norm_eps", "layer_norm_eps", "rope_theta"])
@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY, -1, -1e-6, 1e308, 10**400, "1e-6", [-1], True, {}])
def test_a_number_that_nothing_can_be_computed_with_is_refused(
    tmp_path: Path, where: str, key: str, value: object
) -> None:
    changes = {key: value}
    with pytest.raises(InvalidModel, match=key):
        read_config(config(tmp_path, **({where: changes} if where else changes)))


@pytest.mark.parametrize("value", [{"a": {"factor": NAN}}, {"a": [1.0, [NAN]]}, {"a": NAN}])
def test_nan_is_refused_wherever_it_stands(tmp_path: Path, value: dict[str, Any]) -> None:
    with pytest.raises(InvalidModel, match="not a number"):
        read_config(config(tmp_path, **value))


def test_what_real_configs_hold_is_taken(tmp_path: Path) -> None:
    held = {"rms_norm_eps": 1e-6, "layer_norm_eps": 0, "rope_theta": 10_000_000, "rope_local_base_freq": None}
    odd = {"time_step_limit": [0.0, INFINITY], "text_config": {"rope_theta": [1e4, 1e11], "norm_eps": 1e-5}}
    assert read_config(config(tmp_path, **held, **odd))["rope_theta"] == 10_000_000
