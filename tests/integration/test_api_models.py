"""The admin's hands on models, memory, requests and settings, through the real application and a scripted engine."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from inference.conversation.preparer import Preparer
from inference.conversation.text_model import TextModel
from inference.engine.scripted import Script, ScriptedLoader
from inference.scheduler import PoolRules, Scheduler, SchedulerSettings
from mlxd import runtime
from mlxd.api import policy
from mlxd.config import BY_NAME, Config
from mlxd.config.load import LoadedConfig, Origin, load
from mlxd.live_settings import LIVE, LiveSettings
from mlxd.runtime import Runtime
from mlxd.saved_settings import read_saved
from mlxd.served import served_models
from tests.integration.api_scripted import Answer, Call, get, post
from tests.openapi_client import OpenApiClient, Refused
from tests.scripted import ByteTokenizer, until

TOKEN = "mlxd_admin_" + "t" * 43
ADMIN = {"authorization": f"Bearer {TOKEN}"}
BARE = {**ADMIN, "content-type": ""}


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(b"12345678")
    return folder


@pytest.fixture
def script() -> Script:
    return Script(decode_s=0.002)


@pytest.fixture
def running(tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """Serves `a`; `b` and `org/c` lie below a model root, `outside` does not."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("served/a", "root/b", "root/org/c", "outside"):
        make_model(tmp_path / name)
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    config = Config(state_dir=tmp_path, model_roots=(str(tmp_path / "root"),), max_models=2)
    live = LiveSettings(LoadedConfig(config, dict.fromkeys(BY_NAME, Origin.DEFAULT)), tmp_path / "settings.json")
    scheduler = Scheduler(lambda: ScriptedLoader(script), SchedulerSettings(max_batch=2, tick_s=0.02))
    models = served_models([("a", tmp_path / "served" / "a")])
    reader = lambda _path: TextModel(ByteTokenizer(), None, context_tokens=100_000)  # noqa: E731
    made = Runtime(models, scheduler, Preparer(), reader, strict_models=True, settings=live)
    made.apply_rules()
    scheduler.start()
    runtime.install(made)
    policy.install(policy.Policy(admin_digest=policy.digest(TOKEN)))
    yield made
    runtime.install(None)
    policy.install(policy.Policy())
    made.close()


async def told(path: str) -> Any:
    answer = await get(path, headers=ADMIN if path.startswith("/api") else {})
    assert answer.status == 200, answer.body
    return answer.json()


async def ordered(path: str, body: Any = None, status: int = 200) -> Any:
    """An order as JSON, or in the query string alone."""
    path, _, query = path.partition("?")
    call = Call("POST", path, b"" if body is None else json.dumps(body).encode(), headers=ADMIN)
    call.scope["query_string"] = query.encode()
    answer = await call.start().result()
    assert answer.status == status, answer.body
    return answer.json()


async def states() -> dict[str, str]:
    return {model["id"]: model["state"] for model in (await told("/api/models"))["models"]}


async def complete(model: str, **fields: Any) -> Answer:
    return await post("/v1/completions", {"model": model, "prompt": "Once", "max_tokens": 4, **fields})


def streaming(model: str) -> Call:
    body = {"model": model, "prompt": "Once", "max_tokens": 20_000, "stream": True}
    return Call("POST", "/v1/completions", json.dumps(body).encode()).start()


# --- load and unload --------------------------------------------------------------------------------------------


async def test_models_come_and_go_as_the_well_known_curl_lines_have_it(running: Runtime, tmp_path: Path) -> None:
    assert await states() == {"a": "unloaded"}
    place = tmp_path / "root" / "b"
    loaded = await ordered(f"/api/models/load?model_id={place}")
    assert loaded["model"]["id"] == "b" and loaded["model"]["state"] == "ready"
    await ordered("/api/models/load", {"model_id": "a"})
    assert await states() == {"a": "ready", "b": "ready"}
    assert (await complete("b")).status == 200
    gone = await ordered(f"/api/models/unload?model_id={place}")
    (receipt,) = gone["unloaded"]
    assert receipt["id"] == "b" and receipt["freed_bytes"] == receipt["weights_bytes"] == 1_000_000
    assert receipt["before"]["active_bytes"] - receipt["after"]["active_bytes"] == 1_000_000
    assert await ordered("/api/models/unload?model_id=b") == {
        "unloaded": [],
        "max_models": 2,
        "model_ttl_s": 0,
        "default": "a",
    }
    assert len((await ordered("/api/models/unload"))["unloaded"]) == 1
    assert await states() == {"a": "unloaded", "b": "unloaded"}
    assert (await complete("b")).status == 200, "it is served, so a request brings it back"


@pytest.mark.parametrize(
    "name",
    [
        "nobody",
        "org/nobody",
        "../outside",
        "link",
        "root/../outside",
        "a" * 300,
        "/etc",
        "b\\c",
        "b/../b",
        "%2e%2e/outside",
        "con",
    ],
)
async def test_what_is_not_below_a_root_is_not_there(running: Runtime, tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    for wanted in (name, str(tmp_path / "root" / name), str(tmp_path / name)):
        refused = await post("/api/models/load", {"model_id": wanted}, headers=ADMIN)
        assert refused.status in (400, 404), wanted
        assert "outside" not in refused.refusal["message"]
    assert sorted(tmp_path.rglob("*")) == before
    assert (await complete("outside")).status == 404 and await states() == {"a": "unloaded"}


async def test_inference_loads_only_what_is_served(running: Runtime) -> None:
    assert (await complete("b")).status == 404
    available = (await told("/api/models/available"))["models"]
    assert [model["id"] for model in available] == ["b", "org/c"]
    await ordered("/api/models/load", {"model_id": "org/c", "name": "mine"})
    assert (await complete("mine")).status == 200
    assert (await ordered("/api/models/load", {"model_id": "b", "name": "mine"}, 409))["error"][
        "code"
    ] == "model_id_taken"


async def test_a_load_that_nobody_waits_for(running: Runtime, script: Script) -> None:
    script.load_s = 0.05
    answer = await ordered("/api/models/load", {"model_id": "b", "wait": False}, 202)
    assert answer["model"]["state"] == "loading"
    while (await states()).get("b") != "ready":
        await asyncio.sleep(0.005)


async def test_a_model_in_use_is_unloaded_by_force_only(running: Runtime) -> None:
    await ordered("/api/models/load?model_id=a")
    stream = streaming("a")
    await until(lambda: running.scheduler.snapshot().running and stream.answer.bodies)
    for path in ("/api/models/unload?model_id=a", "/api/models/unload"):
        call = Call("POST", path.partition("?")[0], headers=ADMIN)
        call.scope["query_string"] = path.partition("?")[2].encode()
        refused = await call.start().result()
        assert refused.status == 409 and refused.refusal["code"] == "model_in_use"
        assert refused.headers["x-should-retry"] == "false"
    await ordered("/api/models/load?model_id=b")  # while the other streams
    assert (await complete("b")).status == 200 and running.scheduler.snapshot().running
    gone = await ordered("/api/models/unload?model_id=a&force=true")
    assert [one["id"] for one in gone["unloaded"]] == ["a"]
    ended = await stream.result()
    assert b'"code": "ended_by_admin"' in ended.body and b"[DONE]" not in ended.body


async def test_orders_that_make_no_sense_are_refused(running: Runtime) -> None:
    for body in ({}, {"model_id": 3}, {"model_id": "a", "trust_remote_code": True}):
        await ordered("/api/models/load", body, 400)
    await ordered("/api/models/load?model_id=a", {"model_id": "b"}, 400)
    await ordered("/api/models/unload", {"force": True, "drain": True}, 400)
    await ordered("/api/models/unload", {"model_id": "nobody"}, 404)
    assert (await get("/api/models")).status == 401


# --- memory and requests ----------------------------------------------------------------------------------------


async def test_the_account_of_memory_adds_up(running: Runtime) -> None:
    await ordered("/api/models/load?model_id=a")
    stream = streaming("a")
    await until(lambda: any(model.kv_bytes for model in running.scheduler.snapshot().models))
    statement = await told("/api/memory")
    account = statement["account"]
    parts = ("weights_bytes", "rows_bytes", "blocks_bytes", "snapshots_bytes", "unexplained_bytes")
    assert account["active_bytes"] == sum(account[part] for part in parts)
    assert account["weights_bytes"] == 1_000_000 and account["rows_bytes"] > 0 == account["unexplained_bytes"]
    assert statement["process"]["footprint_bytes"] > 1 << 20
    stream.disconnect()
    await stream.result()


async def test_requests_are_listed_and_ended(running: Runtime) -> None:
    stream = streaming("a")
    await until(lambda: any(one.completion_tokens for one in running.scheduler.requests()))
    (one,) = (await told("/api/requests"))["requests"]
    assert (one["id"], one["model"], one["stage"]) == ("req_test", "a", "decode")
    ended = await Call("DELETE", "/api/requests/req_test", headers=ADMIN).start().result()
    assert ended.json() == {"id": "req_test", "ended": 1}
    assert b'"code": "ended_by_admin"' in (await stream.result()).body
    again = await Call("DELETE", "/api/requests/req_test", headers=ADMIN).start().result()
    assert again.status == 404


# --- the schema -------------------------------------------------------------------------------------------------


async def test_a_client_made_of_the_schema_speaks_the_api(running: Runtime) -> None:
    assert (await get("/api/openapi.json")).status == 401

    async def send(method: str, path: str, query: str, body: bytes) -> tuple[int, bytes]:
        call = Call(method, path, body, headers=ADMIN)
        call.scope["query_string"] = query.encode()
        answer = await call.start().result()
        return answer.status, answer.body

    assert await told("/api/openapi.json") == await told("/api/openapi.json")
    client = OpenApiClient(await told("/api/openapi.json"), send)
    load, unload = client.named("/api/models/load", "POST"), client.named("/api/models/unload", "POST")
    assert (await client.call(load, model_id="b"))["model"]["state"] == "ready"
    assert (await client.call(load, {"model_id": "a", "wait": True}))["model"]["id"] == "a"
    own = client.named("/api/settings/models/{model_id}", "PUT")
    await client.call(own, {"sampling": {"temperature": 0.5}, "pinned": True}, model_id="b")
    assert (await client.call(client.named("/api/settings/models/{model_id}", "GET"), model_id="b"))["pinned"]
    cache = client.named("/api/settings/model-cache", "POST")
    assert (await client.call(cache, {"max_size": 3}))["max_size"] == 3
    with pytest.raises(jsonschema.ValidationError):
        await client.call(cache, {"max_size": 0})
    with pytest.raises(Refused, match="404 model_not_found"):
        await client.call(unload, model_id="nobody")
    assert [one["id"] for one in (await client.call(unload, model_id="b"))["unloaded"]] == ["b"]
    reads = [name for name, one in client.operations.items() if one.method == "GET" and "{" not in one.path]
    assert len(reads) > 10
    for name in reads:
        try:
            assert isinstance(await client.call(name), dict), name
        except Refused as refused:
            assert refused.code == "ledger_unavailable", name  # there is no database under this runtime


# --- settings ---------------------------------------------------------------------------------------------------


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
        "accepted": "0 to 2", "description": "",
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
