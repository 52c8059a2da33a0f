"""What the admin's API counts, and what it says of its own health; and models that change places meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.engine.scripted import Script
from mlxd.keys import access
from mlxd.keys.access import Access
from mlxd.keys.key import make_key
from mlxd.runtime import Runtime
from tests.integration.api_scripted import Call, get
from tests.integration.installed import ADMIN, TOKEN
from tests.integration.models_app import complete, ordered, serving_models, told
from tests.scripted import until

USAGE = {"stream_options": {"include_usage": True}}


@pytest.fixture
def script() -> Script:
    return Script(decode_s=0.002)


@pytest.fixture
def running(tmp_path: Path, script: Script) -> Iterator[Runtime]:
    access.install(Access())
    with serving_models(tmp_path, script) as made:
        yield made
    access.install(Access())


async def counted() -> Any:
    return await told("/api/counters")


def risen(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - count for name, count in before.items() if after[name] != count}


async def test_counters_rise_by_what_was_done(running: Runtime) -> None:
    before = await counted()
    for _ in range(2):
        assert (await complete("a", surprising_field=1)).status == 200
    assert (await complete("nobody")).status == 404
    after = await counted()
    done = risen(before["requests"], after["requests"])
    assert done.pop("prompt_tokens") > 0
    assert done == {"submitted": 2, "finished": 2, "completion_tokens": 8, "model_loads": 1}
    assert risen({"surprising_field": 0} | before["ignored_fields"], after["ignored_fields"]) == {"surprising_field": 2}
    assert after["cache"] is None and after["uptime_s"] > before["uptime_s"]
    figures = [*after["requests"].values(), *after["content"].values(), *after["healing"].values()]
    assert all(type(figure) is int for figure in figures)


async def test_health_is_told_in_detail_to_the_admin_only(running: Runtime) -> None:
    await complete("a")
    whole = await told("/api/health")
    assert (whole["live"], whole["ready"], whole["reason"]) == (True, True, None)
    assert whole["detail"] == (await get("/health", headers=ADMIN)).json()["detail"] and whole["detail"]["faults"] == {}
    for path in ("/api/health", "/api/counters"):
        assert (await get(path)).status == 401


async def test_models_change_places_while_another_answers(running: Runtime, script: Script) -> None:
    """Two may be in memory: one answers all the time, the other place changes hands by load, by drain, by request."""

    def streaming(model: str, max_tokens: int) -> Call:
        body = {"model": model, "prompt": "Once", "max_tokens": max_tokens, "stream": True}
        return Call("POST", "/v1/completions", json.dumps(body | USAGE).encode()).start()

    stream = streaming("a", 60_000)
    await until(lambda: running.scheduler.snapshot().running and stream.answer.bodies)
    for name in ("b", "org/c"):
        assert (await ordered("/api/models/load", {"model_id": name}))["model"]["state"] == "ready"
    script.decode_s = 1.0
    second = streaming("org/c", 50)
    await until(lambda: running.scheduler.snapshot().running == 2)
    asyncio.get_running_loop().call_later(0.2, setattr, script, "decode_s", 0.002)
    (gone,) = (await ordered("/api/models/unload", {"model_id": "org/c", "drain": True}))["unloaded"]
    assert gone["id"] == "org/c" and (await second.result()).events()[-2]["usage"]["completion_tokens"] == 50
    assert (await complete("b")).status == 200
    present = {model.id for model in running.scheduler.snapshot().models if model.limits is not None}
    so_far = len(stream.answer.bodies)
    await until(lambda: len(stream.answer.bodies) > so_far)
    assert present == {"a", "b"} and not stream.answer.complete
    stream.disconnect()
    await stream.result()


async def test_what_anthropics_sdk_sends_opens_the_same_doors(running: Runtime) -> None:
    """Its headers, as version 2.12 was seen to send them."""
    secret, key = make_key("sdk", lambda _: False)
    await access.current().keyring.add(key)
    sent = {"anthropic-version": "2023-06-01", "x-stainless-lang": "python"}
    listed = await get("/v1/models", headers=sent | {"x-api-key": secret})
    assert [model["id"] for model in listed.json()["data"]] == ["a"]
    assert (await get("/api/keys", headers=sent | {"x-api-key": TOKEN})).status == 200
    for path, wrong in (("/v1/models", secret + "x"), ("/api/keys", TOKEN + "x"), ("/api/keys", "sk-ant-other")):
        refused = await get(path, headers=sent | {"x-api-key": wrong})
        assert refused.status == 401 and refused.refusal["type"] == "authentication_error"
