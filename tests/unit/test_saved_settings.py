"""What somebody has written into `settings.json` is refused by name, before anything of it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.config import BY_NAME, KNOBS, Config
from mlxd.config.load import load
from mlxd.live_settings import LIVE, LiveSettings
from mlxd.model_schema import OwnSettings
from mlxd.model_settings import ModelSettings
from mlxd.saved_settings import SavedSettings, read_saved, write_saved
from mlxd.start_errors import InvalidSetting

WRONG: list[Any] = [True, 1.5, "warm", [], ["a"], [1], {}]


@pytest.mark.parametrize("name", sorted(LIVE))
def test_a_value_of_another_type_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    """In the file and in an order alike; what is taken in one is taken in the other."""
    refused = 0
    for value in WRONG:
        live = LiveSettings.alone(Config(state_dir=tmp_path))
        write_saved(tmp_path / "saved", SavedSettings({name: value}))
        try:
            live.tried({name: value})
        except InvalidSetting as error:
            refused += 1
            assert name in error.message
            with pytest.raises(InvalidSetting, match=name) as told:
                load({}, tmp_path, read_saved(tmp_path / "saved").knobs)
            assert told.value.cure
        else:
            load({}, tmp_path, read_saved(tmp_path / "saved").knobs)
    assert refused >= len(WRONG) - 2, "texts and lists of texts may be right"


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ({"pinned": "yes"}, "pinned"),
        ({"aliases": "quick"}, "aliases"),
        ({"aliases": ["a\nb"]}, "aliases.0"),
        ({"ttl_s": -1}, "ttl_s"),
        ({"sampling": {"temperature": "warm"}}, "sampling.temperature"),
        ({"sampling": {"heat": 1}}, "sampling.heat"),
        ({"template_args": {"a": {}}}, "template_args.a"),
        ({"kv_bits": 5}, "kv_bits"),
        ({"reuse": 1}, "reuse"),
    ],
)
def test_what_a_model_cannot_be_set_to_is_refused_by_its_name(tmp_path: Path, own: dict[str, Any], name: str) -> None:
    write_saved(tmp_path / "saved", SavedSettings({}, {"good": {"pinned": True}, "bad": own}))
    with pytest.raises(InvalidSetting, match=name.replace(".", r"\.")) as told:
        read_saved(tmp_path / "saved")
    assert "'bad'" in told.value.message and str(tmp_path / "saved") in told.value.cure


@given(
    st.builds(
        ModelSettings,
        aliases=st.lists(st.sampled_from("xyz"), unique=True).map(tuple),
        pinned=st.none() | st.booleans(),
        ttl_s=st.none() | st.floats(0, 1e9),
        sampling=st.fixed_dictionaries({}, optional={"temperature": st.floats(0, 2), "top_k": st.integers(0, 99)}),
        kv_bits=st.sampled_from([None, 4, 8]),
        reuse=st.sampled_from([None, "token", "bitwise"]),
    )
)
def test_what_a_model_is_set_to_can_be_read_again(own: ModelSettings) -> None:
    values = json.loads(json.dumps(own.as_dict()))
    assert ModelSettings.of(OwnSettings.model_validate(values).as_values()) == own


def test_a_choice_that_is_left_to_mlxd_stays_saved(tmp_path: Path) -> None:
    auto = next(knob.name for knob in KNOBS if knob.has_auto)
    assert BY_NAME[auto].takes("auto") and BY_NAME[auto].takes(None)
    live = LiveSettings.alone(Config(state_dir=tmp_path))
    live._saved = SavedSettings({auto: None})
    live.change({"temperature": 0.5})
    assert live._saved.knobs == {auto: None, "temperature": 0.5}
