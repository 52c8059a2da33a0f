"""Models and health through the real application, with a runtime and before there is one."""

from __future__ import annotations

from mlxd import runtime
from tests.integration.api_scripted import StandIn, chat, get, post

CHAT = "/v1/chat/completions"


async def test_models(stand_in: StandIn) -> None:
    listed = (await get("/v1/models")).json()
    assert listed["object"] == "list"
    assert listed["data"][0] == {"id": "tiny", "object": "model", "created": 1_700_000_000, "owned_by": "mlxd"}
    assert (await get("/v1/models/owner/other")).json()["id"] == "owner/other"
    missing = await get("/v1/models/absent/model")
    assert missing.status == 404 and missing.refusal["code"] == "model_not_found"
    assert missing.refusal["type"] == "not_found_error"


async def test_health(stand_in: StandIn) -> None:
    assert (await get("/health/live")).json() == {"status": "ok"}
    assert (await get("/health/ready")).json() == {"status": "ready"}
    assert (await get("/health")).json() == {"status": "ok", "ready": True}
    stand_in.ready = (False, "model_loading")
    loading = await get("/health/ready")
    assert loading.status == 503 and loading.json() == {"status": "not_ready", "reason": "model_loading"}
    health = await get("/health")
    assert health.status == 200 and health.json() == {"status": "model_loading", "ready": False}
    stand_in.alive = False
    assert (await get("/health/live")).status == 503 and (await get("/health")).status == 503


async def test_health_before_there_is_a_runtime() -> None:
    runtime.install(None)
    assert (await get("/health/live")).status == 200
    assert (await get("/health/ready")).json() == {"status": "not_ready", "reason": "starting"}
    assert (await get("/health")).status == 200
    refused = await post(CHAT, chat())
    assert refused.status == 503 and refused.refusal["code"] == "model_loading" and refused.headers["retry-after"]
