"""The admin's hands on models, memory and requests, through the real application and a scripted engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from inference.engine.scripted import Script
from mlxd.runtime import Runtime
from tests.integration.api_scripted import Call, get, post
from tests.integration.installed import ADMIN
from tests.integration.models_app import complete, ordered, serving_models, told
from tests.openapi_client import OpenApiClient, Refused
from tests.scripted import until


@pytest.fixture
def script() -> Script:
    return Script(decode_s=0.002)


@pytest.fixture
def running(tmp_path: Path, script: Script) -> Iterator[Runtime]:
    with serving_models(tmp_path, script) as made:
        yield made


async def states() -> dict[str, str]:
    return {model["id"]: model["state"] for model in (await told("/api/models"))["models"]}


def streaming(model: str) -> Call:
    body = {"model": model, "prompt": "Once", "max_tokens": 20_000, "stream": True}
    return Call("POST", "/v1/completions", json.dumps(body).encode()).start()


# --- load and unload --------------------------------------------------------------------------------------------------


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


# --- memory and requests ----------------------------------------------------------------------------------------------


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


# --- the schema -------------------------------------------------------------------------------------------------------


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
