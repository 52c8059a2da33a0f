"""The law of live settings: a change holds as a whole, is on the disk before it holds, and can be taken back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.config import BY_NAME, KNOBS, Config
from mlxd.config.load import LoadedConfig, Origin, load
from mlxd.live_settings import LIVE, LiveSettings
from mlxd.model_settings import ModelSettings
from mlxd.saved_settings import SavedSettings, read_saved, write_saved
from mlxd.served import ServedModel
from mlxd.start_errors import InvalidSetting, UnsafeStateDir

GOOD: dict[str, list[Any]] = {
    "max_models": [1, 5],
    "model_ttl_s": [0.0, 30.0],
    "temperature": [0.0, 1.5],
    "top_k": [10],
    "default_thinking": [True, False],
    "pinned_models": [[], ["a", "b"]],
    "volatile": ["bind", "omit"],
    "queue_size": [0, 7],
}
BAD: dict[str, list[Any]] = {
    "max_models": [0, "many"],
    "temperature": [-1, 99],
    "volatile": ["sometimes"],
    "port": [80],
    "x": [1],
}


def changes(values: dict[str, list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: st.sampled_from([*known]) for name, known in values.items()})


def fresh() -> LiveSettings:
    return LiveSettings.alone(Config(state_dir=Path("nowhere")))


@given(orders=st.lists(st.tuples(changes({n: [*v, None] for n, v in GOOD.items()}), changes(BAD)), max_size=6))
def test_what_holds_is_what_the_good_orders_say(orders: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    live, plain = fresh(), Config(state_dir=Path("nowhere"))
    wanted: dict[str, Any] = {}
    for good, bad in orders:
        if bad:
            with pytest.raises(InvalidSetting):
                live.change({**good, **bad})
        else:
            live.change(good)
            wanted |= good
        for name in GOOD:
            value = wanted.get(name)
            default = getattr(plain, name)
            now = getattr(live.config, name)
            assert now == (default if value is None else tuple(value) if isinstance(value, list) else value)
            assert live.origin(name) is (Origin.DEFAULT if value is None else Origin.SAVED)


def test_what_was_saved_is_found_again_beneath_flags_and_above_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.json"
    monkeypatch.setenv("MLXD_TEMPERATURE", "0.5")
    monkeypatch.setenv("MLXD_TOP_K", "9")
    live = LiveSettings(load({}, tmp_path), path)
    live.change({"temperature": 0.75, "max_models": 3})
    live.change_model("a", ModelSettings(pinned=True, aliases=("x",)))
    again = LiveSettings(load({"max_models": "2"}, tmp_path, read_saved(path).knobs), path)
    assert (again.config.temperature, again.config.max_models, again.config.top_k) == (0.75, 2, 9)
    sources = [again.origin(name) for name in ("temperature", "max_models", "top_k", "min_p")]
    assert sources == [Origin.SAVED, Origin.FLAG, Origin.ENVIRONMENT, Origin.DEFAULT]
    assert again.model("a") == ModelSettings(pinned=True, aliases=("x",)) and again.model("b") == ModelSettings()
    again.change({"temperature": None})
    assert again.config.temperature == 0.5 and again.origin("temperature") is Origin.ENVIRONMENT
    again.change_model("a", ModelSettings())
    assert json.loads(path.read_text()) == {"knobs": {"max_models": 3}, "models": {}}


def test_what_was_saved_over_a_zero_is_taken_back_and_leaves_the_disk_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.json"
    LiveSettings(load({}, tmp_path), path).change({"ssd_cache_bytes": 1 << 30})
    monkeypatch.setenv("MLXD_SSD_CACHE_BYTES", "0")
    live = LiveSettings(load({}, tmp_path, read_saved(path).knobs), path)
    with pytest.raises(InvalidSetting, match="takes a restart"):
        live.change({"ssd_cache_bytes": 0})
    live.change({"ssd_cache_bytes": None})
    assert json.loads(path.read_text())["knobs"] == {} and live.disk_bytes == 1 << 30
    assert (live.config.ssd_cache_bytes, live.origin("ssd_cache_bytes")) == (0, Origin.ENVIRONMENT)
    live.change({"ssd_cache_daily_bytes": 1 << 20})
    assert live.disk_bytes == 1 << 30, "other limits leave it alone too"
    live.change({"ssd_cache_bytes": 1 << 29})
    assert live.disk_bytes == 1 << 29
    live.change({"ssd_cache_bytes": None})
    after = LiveSettings(load({}, tmp_path, read_saved(path).knobs), path)
    assert after.disk_bytes == 0, "the next start begins without"
    after.change({"ssd_cache_bytes": None})
    with pytest.raises(InvalidSetting, match="started with ssd_cache_bytes 0"):
        after.change({"ssd_cache_bytes": 1})


def test_a_disk_that_is_full_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveSettings(load({}, tmp_path), tmp_path / "settings.json")

    def full(path: Path, text: str) -> None:
        raise UnsafeStateDir("full")

    monkeypatch.setattr("mlxd.saved_settings.write_private", full)
    with pytest.raises(UnsafeStateDir):
        live.change({"max_models": 9})
    assert live.config.max_models == 1 and live.origin("max_models") is Origin.DEFAULT


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"knobs": [], "models": {}}', '{"knobs": {}, "models": {"a": 1}}']
)
def test_a_file_that_is_not_ours_is_told_with_a_cure(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.json"
    write_saved(path, SavedSettings())
    path.write_text(text)
    with pytest.raises(InvalidSetting, match=r"mv .*settings\.json"):
        read_saved(path)


def test_only_what_is_read_at_each_use_is_live() -> None:
    assert {knob.name for knob in KNOBS} > LIVE
    assert not LIVE & {
        "host",
        "port",
        "state_dir",
        "models",
        "model_roots",
        "require_key",
        "allowed_hosts",
        "hf_endpoint",
    }


def test_pins_and_times_of_single_models_come_before_those_of_all() -> None:
    live = LiveSettings(
        LoadedConfig(
            Config(state_dir=Path("x"), pinned_models=("a", "b"), model_ttl_s=9.0, models=("1", "2", "3")),
            dict.fromkeys(BY_NAME, Origin.DEFAULT),
        )
    )
    own = {"a": ModelSettings(), "b": ModelSettings(pinned=False), "c": ModelSettings(pinned=True, ttl_s=0.0)}
    rules = live.rules(ServedModel(name, Path(name), 0, settings) for name, settings in own.items())
    assert rules.pinned == {"a", "c"} and rules.max_models == 3
    assert rules.expires("b", 9.0) and not rules.expires("b", 8.0) and not rules.expires("a", 99.0)
    live.change({"max_models": 1})
    assert live.rules(()).max_models == 1, "who says a number means it"


def test_what_a_later_version_has_saved_is_left_alone(tmp_path: Path) -> None:
    write_saved(tmp_path / "saved", SavedSettings({"later": 1}, {"a": {"later": 1, "pinned": True}}))
    loaded = load({}, tmp_path, read_saved(tmp_path / "saved").knobs)
    live = LiveSettings(loaded, tmp_path / "saved")
    assert live.model("a") == ModelSettings(pinned=True) and live.config == loaded.config
    live.change({"max_models": 2})
    assert read_saved(tmp_path / "saved").models == {"a": {"later": 1, "pinned": True}}


def test_models_are_meant_by_whatever_they_answer_to() -> None:
    live = LiveSettings.alone(
        Config(state_dir=Path("x"), pinned_models=("org/a", "quick"), model_aliases=("quick=org/b", "slow=c"))
    )
    models = live.settled(ServedModel(name, Path(name), 0) for name in ("a", "b", "c"))
    assert [model.settings.aliases for model in models] == [(), ("quick",), ("slow",)]
    assert live.rules(models).pinned == {"a", "b"}
