"""Settings: who wins, what is refused, what is warned about, and that every knob is described."""

import dataclasses
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.params import SamplingParams
from mlxd.config import KNOBS, Config, is_loopback, refuse_exposed_host
from mlxd.config.addresses import reachable, refuse_unguarded
from mlxd.config.knobs import BY_NAME, GROUPS, SAMPLING_NAMES
from mlxd.config.load import Origin, load, size_bytes
from mlxd.start_errors import InvalidSetting


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith("MLXD_")]:
        monkeypatch.delenv(name)


def test_defaults_are_those_of_the_table(tmp_path):
    loaded = load({}, tmp_path)
    assert loaded.config == Config(state_dir=tmp_path)
    assert set(loaded.origins.values()) == {Origin.DEFAULT}
    assert loaded.warnings == ()


def test_flag_beats_environment_beats_dotenv_beats_default(tmp_path, monkeypatch):
    seen = [load({}, tmp_path).config.port]
    (tmp_path / ".env").write_text("MLXD_PORT=1001\n")
    seen.append(load({}, tmp_path).config.port)
    monkeypatch.setenv("MLXD_PORT", "1002")
    seen.append(load({}, tmp_path).config.port)
    loaded = load({"port": "1003"}, tmp_path)
    assert [*seen, loaded.config.port] == [8080, 1001, 1002, 1003]
    assert loaded.origins["port"] is Origin.FLAG


def test_dotenv_of_the_working_directory_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / ".env").write_text("MLXD_PORT=1001\n")
    monkeypatch.chdir(tmp_path / "here")
    assert load({}, tmp_path / "state").config.port == 8080


def test_an_empty_variable_is_no_value(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXD_PORT", "")
    assert load({}, tmp_path).origins["port"] is Origin.DEFAULT


def test_lists_are_written_with_commas(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXD_MODELS", "/m/a, b/c ,name=/m/d")
    assert load({}, tmp_path).config.models == ("/m/a", "b/c", "name=/m/d")


@pytest.mark.parametrize("knob", [knob for knob in KNOBS if knob.about.low is not None], ids=lambda knob: knob.name)
def test_every_range_is_held_at_both_ends(knob, tmp_path):
    for value in (knob.about.low, knob.about.high):
        assert getattr(load({knob.name: str(value)}, tmp_path).config, knob.name) == value
    for value in (knob.about.low - 1, knob.about.high + 1):
        with pytest.raises(InvalidSetting, match=knob.flag):
            load({knob.name: str(value)}, tmp_path)


@pytest.mark.parametrize("knob", [knob for knob in KNOBS if knob.kind is float], ids=lambda knob: knob.name)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "five"])
def test_numbers_are_finite(knob, value, tmp_path):
    with pytest.raises(InvalidSetting):
        load({knob.name: value}, tmp_path)


def test_a_wrong_value_names_its_place_and_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXD_PORT", "canary-value")
    with pytest.raises(InvalidSetting, match=r"MLXD_PORT.*0 to 65535") as refused:
        load({}, tmp_path)
    assert "canary" not in str(refused.value)
    monkeypatch.delenv("MLXD_PORT")
    (tmp_path / ".env").write_text("MLXD_LOG_LEVEL=loud\n")
    with pytest.raises(InvalidSetting, match=r"MLXD_LOG_LEVEL in the state directory's \.env"):
        load({}, tmp_path)


def test_unknown_variables_are_named_with_the_nearest_known_one(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXD_PROT", "1")
    (tmp_path / ".env").write_text("MLXD_QQQQQQ=1\nOTHER=2\n")
    in_environment, in_file = load({}, tmp_path).warnings
    assert "MLXD_PROT" in in_environment and "MLXD_PORT" in in_environment
    assert "MLXD_QQQQQQ" in in_file and "mean" not in in_file


def test_the_state_directory_cannot_be_moved_by_its_own_file(tmp_path):
    (tmp_path / ".env").write_text("MLXD_STATE_DIR=/elsewhere\n")
    loaded = load({}, tmp_path)
    assert loaded.config.state_dir == tmp_path
    assert loaded.origins["state_dir"] is Origin.DEFAULT
    assert any("MLXD_STATE_DIR" in warning for warning in loaded.warnings)


def test_sampling_names_are_those_of_the_core():
    core = {field.name for field in dataclasses.fields(SamplingParams)} - {"seed", "logit_bias"}
    assert set(SAMPLING_NAMES) == core | {"max_tokens"}
    assert set(SAMPLING_NAMES) <= BY_NAME.keys()


def test_the_model_decides_unless_told_otherwise(tmp_path):
    assert load({}, tmp_path).config.sampling_defaults() == {}
    mixed = load({"sampling_profile": "seed", "top_k": "3"}, tmp_path).config.sampling_defaults()
    assert (mixed["top_k"], mixed["temperature"], mixed["max_tokens"]) == (3, 0.1, 2048)


def test_every_named_model_fits_in_memory_together(tmp_path):
    assert Config(state_dir=tmp_path, models=("a", "b"), demo=True).resident_models == 3
    assert Config(state_dir=tmp_path, models=("a",), max_models=4).resident_models == 4


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "::ffff:127.0.0.1"])
def test_loopback_addresses(host, tmp_path):
    assert is_loopback(host)
    refuse_exposed_host(Config(state_dir=tmp_path, host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "localhost.evil.example", "", "127.1", "0"])
def test_everything_else_is_refused_and_both_settings_are_named(host, tmp_path):
    with pytest.raises(InvalidSetting, match=r"`host`.*`require_key`"):
        refuse_exposed_host(Config(state_dir=tmp_path, host=host))
    guarded = Config(state_dir=tmp_path, host=host, require_key=True)
    refuse_exposed_host(guarded)
    refuse_unguarded(guarded, has_key=True)
    with pytest.raises(InvalidSetting, match="no key yet"):
        refuse_unguarded(guarded, has_key=False)


def test_a_key_is_needed_only_where_others_can_come(tmp_path):
    refuse_unguarded(Config(state_dir=tmp_path, require_key=True), has_key=False)


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("[::1]", "[::1]"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"),
     ("192.168.1.2", "192.168.1.2"), ("localhost", "127.0.0.1")],
)  # fmt: skip
def test_nobody_is_told_to_connect_to_all_addresses(host, url):
    assert reachable(host) == url


@given(
    st.integers(0, 1 << 40), st.sampled_from([("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), (" gb", 10**9)])
)
def test_sizes_mean_what_they_say(number, unit):
    assert size_bytes(f"{number}{unit[0]}") == number * unit[1]


@pytest.mark.parametrize("text", ["-1", "1 apple", "MiB", "1e3", "", "0x10", "1,5 GB"])
def test_what_is_no_size_is_refused(text, tmp_path):
    assert size_bytes(text) == text
    if text:
        with pytest.raises(InvalidSetting):
            load({"memory_limit_bytes": text}, tmp_path)


def test_every_knob_is_described_and_unique():
    assert len({knob.flag for knob in KNOBS}) == len({knob.env for knob in KNOBS}) == len(KNOBS)
    for knob in KNOBS:
        assert knob.about.group in GROUPS
        assert knob.about.text.endswith(".")


CACHE_KNOBS = {
    "cache_memory_bytes": ("3GiB", "memory_bytes", 3 << 30),
    "cache_snapshot_memory_bytes": ("0", "snapshot_memory_bytes", 0),
    "cache_side_memory_bytes": ("5 MiB", "side_memory_bytes", 5 << 20),
    "cache_ttl_s": ("1800", "ttl_s", 1800.0),
    "cache_idle_s": ("7.5", "idle_s", 7.5),
    "cache_max_sessions": ("24", "max_sessions", 24),
    "cache_max_entries_per_session": ("2", "max_entries_per_session", 2),
    "cache_max_conversation_tokens": ("4096", "max_conversation_tokens", 4096),
    "cache_min_reuse_tokens": ("32", "min_reuse_tokens", 32),
    "reuse": ("bitwise", "bitwise", True),
    "audit_every": ("7", "audit_every", 7),
}


NOT_MEMORY = {"prewarm", "healing_turns", "ssd_cache_bytes", "ssd_cache_daily_bytes"}


def test_the_knobs_of_the_disk_reach_the_engine(tmp_path):
    from mlxd.wiring import disk_settings

    given = {"ssd_cache_bytes": "3GiB", "ssd_cache_daily_bytes": "9GiB"}
    settings = disk_settings(load(given, tmp_path).config)
    assert settings is not None and settings.directory == tmp_path / "prefixes"
    assert (settings.max_bytes, settings.day_bytes) == (3 << 30, 9 << 30)
    assert disk_settings(load({}, tmp_path).config).max_bytes is None
    assert disk_settings(load({"ssd_cache_bytes": "0"}, tmp_path).config) is None


@pytest.mark.parametrize("name", CACHE_KNOBS)
def test_each_knob_of_the_cache_reaches_the_engine_and_moves_nothing_else(name, tmp_path):
    from mlxd.live_settings import cache_settings

    given, field, wanted = CACHE_KNOBS[name]
    before = dataclasses.asdict(cache_settings(load({}, tmp_path).config))
    after = dataclasses.asdict(cache_settings(load({name: given}, tmp_path).config))
    assert after == before | {field: wanted} and after != before


def test_no_knob_of_the_cache_is_forgotten():
    from inference.engine.settings import CacheSettings

    assert {knob.name for knob in KNOBS if knob.about.group == "Prefix cache"} == CACHE_KNOBS.keys() | NOT_MEMORY
    reached = {field for _, field, _ in CACHE_KNOBS.values()}
    assert reached == {field.name for field in dataclasses.fields(CacheSettings)}


@pytest.mark.parametrize("written", ["auto", "AUTO", " auto "])
def test_a_size_may_be_left_to_mlxd_in_words(written, tmp_path, monkeypatch):
    monkeypatch.setenv("MLXD_CACHE_MEMORY_BYTES", "7")
    loaded = load({"cache_memory_bytes": written}, tmp_path)
    assert loaded.config.cache_memory_bytes is None
    assert loaded.origins["cache_memory_bytes"] is Origin.FLAG
    assert BY_NAME["cache_memory_bytes"].default_text == "auto"
    with pytest.raises(InvalidSetting):
        load({"memory_limit_bytes": "auto"}, tmp_path)
