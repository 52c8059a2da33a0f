"""The admin's hands on settings: what holds at once, what is kept, and what is refused as a whole."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from inference.engine.scripted import Script
from inference.scheduler import PoolRules
from mlxd.api import policy
from mlxd.config import BY_NAME
from mlxd.config.load import LoadedConfig, Origin, load
from mlxd.live_settings import LIVE, LiveSettings
from mlxd.runtime import Runtime
from mlxd.saved_settings import read_saved
from tests.integration.api_scripted import Answer, Call, post
from tests.integration.installed import ADMIN
from tests.integration.models_app import complete, ordered, serving_models, told
from tests.scripted import until


@pytest.fixture
def script() -> Script:
    return Script(decode_s=0.002)


@pytest.fixture
def running(tmp_path: Path, script: Script) -> Iterator[Runtime]:
    with serving_models(tmp_path, script) as made:
        yield made


async def rows() -> dict[str, Any]:
    return {row["name"]: row for row in (await told("/api/settings"))["settings"]}


async def test_how_many_models_may_stay_is_changed_at_once_and_for_good(running: Runtime, tmp_path: Path) -> None:
    for name in ("a", "b"):
        await ordered(f"/api/models/load?model_id={name}")
    assert (await told("/api/settings/model-cache"))["max_size"] == 2
    changed = await ordered("/api/settings/model-cache", {"max_size": 1})
    assert changed["max_size"] == 1
    await until(lambda: len(running.scheduler.snapshot().models) == 1)
    saved = tmp_path / "settings.json"
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    again = load({}, tmp_path, read_saved(saved).knobs)
    assert again.config.max_models == 1 and again.origins["max_models"] is Origin.SAVED
    by_flag = load({"max_models": 3}, tmp_path, read_saved(saved).knobs)
    assert by_flag.config.max_models == 3 and by_flag.origins["max_models"] is Origin.FLAG


async def test_settings_hold_as_a_whole_or_not_at_all(running: Runtime, tmp_path: Path) -> None:
    assert (await rows())["temperature"] | {"description": ""} == {
        "name": "temperature", "value": None, "source": "default", "live": True, "default": "unset",
        "accepted": "0 to 2", "description": "", "effect": "live",
    }  # fmt: skip
    changed = await ordered("/api/settings", {"temperature": 0.25, "default_thinking": False, "queue_size": 3})
    assert [row["source"] for row in changed["settings"]] == ["saved"] * 3
    assert policy.current().sampling["temperature"] == 0.25 and not policy.current().default_thinking
    assert policy.current().admin_digest, "the rest of the policy stays"
    before = (await rows(), (tmp_path / "settings.json").read_bytes())
    for wrong in (
        {"temperature": 0.5, "top_p": 7},
        {"temperature": 0.5, "port": 1},
        {"temperature": 0.5, "nonsense": 1},
        {"temperature": "warm"},
        {"temperature": 0.5, "default_model": "nobody"},
        {"temperature": 0.5, "model_aliases": ["x=nobody"]},
        {"temperature": 0.5, "volatile_models": ["a=nonsense"]},
    ):
        refused = await ordered("/api/settings", wrong, 400)
        assert refused["error"]["code"] == "invalid_setting", refused
        assert (await rows(), (tmp_path / "settings.json").read_bytes()) == before
    await ordered("/api/settings", {"temperature": None})
    assert (await rows())["temperature"]["source"] == "default" and "temperature" not in policy.current().sampling
    assert {name for name, row in (await rows()).items() if row["live"]} == LIVE


async def test_all_that_may_change_holds_at_once(running: Runtime) -> None:
    wanted = {"keep_tools": True, "strip_thinking": True, "default_thinking": False, "preserve_thinking": False}
    others = {"volatile": "omit", "volatile_models": ["a=bind"], "keepalive_s": 3.0, "top_p": 0.5}
    await ordered("/api/settings", wanted | others)
    fresh, kept = policy.Policy.of(running.settings.config, ""), policy.current()
    for name in {one.name for one in fields(fresh)} - {"admin_digest", "require_key", "people", "secret"}:
        assert getattr(kept, name) == getattr(fresh, name) != getattr(policy.Policy(), name), name


async def test_what_the_next_start_could_not_read_is_not_saved(running: Runtime, tmp_path: Path) -> None:
    refused = await ordered("/api/settings", {"pinned_models": ["a"] * 200_000, "temperature": 0.5}, 409)
    assert refused["error"]["code"] == "settings_not_saved" and "1,048,576" in refused["error"]["message"]
    assert running.settings.config.pinned_models == () and "temperature" not in policy.current().sampling
    assert not (tmp_path / "settings.json").exists()


async def test_changes_that_come_together_all_hold(running: Runtime, tmp_path: Path) -> None:
    wanted = {"temperature": 0.5, "top_k": 7, "max_models": 3, "queue_size": 5, "keepalive_s": 2.0, "min_p": 0.25}
    alone = [ordered("/api/settings", {name: value}) for name, value in wanted.items()]
    body = json.dumps({"pinned": True}).encode()
    await asyncio.gather(*alone, Call("PUT", "/api/settings/models/a", body, headers=ADMIN).start().result())
    saved = read_saved(tmp_path / "settings.json")
    assert saved.knobs == wanted and saved.models == {"a": {"pinned": True}}
    assert {name: getattr(running.settings.config, name) for name in wanted} == wanted
    now = policy.current()
    assert (now.sampling, now.keepalive_s) == ({"temperature": 0.5, "top_k": 7, "min_p": 0.25}, 2.0)
    assert running.pool_rules() == PoolRules(3, 0.0, frozenset("a"))


async def test_aliases_and_the_default_model(running: Runtime) -> None:
    await ordered("/api/models/load?model_id=b")
    await ordered("/api/settings", {"model_aliases": ["fast=b"], "default_model": "b"})
    assert (await complete("fast")).json()["model"] == "b"
    assert [model["id"] for model in (await told("/v1/models"))["data"]] == ["a", "b", "fast"]
    assert (await told("/v1/models/fast"))["id"] == "fast" and (await told("/v1/models/b"))["id"] == "b"
    assert (await post("/v1/completions", {"prompt": "x", "max_tokens": 1})).json()["model"] == "b"
    refused = (
        await Call("PUT", "/api/settings/models/a", json.dumps({"aliases": ["fast"]}).encode(), headers=ADMIN)
        .start()
        .result()
    )
    assert refused.status == 409


async def test_one_model_has_settings_of_its_own(running: Runtime, tmp_path: Path) -> None:
    async def put(body: Any) -> Answer:
        return await Call("PUT", "/api/settings/models/a", json.dumps(body).encode(), headers=ADMIN).start().result()

    wanted = {"aliases": ["quick"], "pinned": True, "ttl_s": 5.0, "sampling": {"temperature": 0.5, "max_tokens": 2}}
    answer = await put(wanted)
    assert answer.status == 200 and answer.json()["settings"] == wanted and answer.json()["pinned"]
    body = (await post("/v1/completions", {"model": "quick", "prompt": "Once"})).json()
    assert body["usage"]["completion_tokens"] == 2, "its own max_tokens"
    assert (await complete("quick")).json()["usage"]["completion_tokens"] == 4, "a request's wish comes first"
    again = LiveSettings(
        LoadedConfig(running.settings.config, dict.fromkeys(BY_NAME, Origin.DEFAULT)), tmp_path / "settings.json"
    )
    assert again.model("a").as_dict() == wanted
    kv = ({"kv_group_size": 64}, {"kv_bits": 5}, {"kv_bits": 8, "kv_group_size": 33})
    for wrong in (*kv, {"volatile": "nonsense"}, {"sampling": {"temperature": 9}}, {"surprise": 1}):
        assert (await put(wrong)).status == 400
    assert (await put({})).json()["settings"] == {}
