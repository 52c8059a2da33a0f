"""Routes, methods, credentials and headers: what is open, what is not, and that every refusal is JSON."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.test import override_settings
from ninja import NinjaAPI, Router

from mlxd import runtime
from mlxd.api import policy
from mlxd.api.auth import Public
from mlxd.api.checks import undeclared
from mlxd.api.root import api
from mlxd.config import Config
from tests.integration.api_scripted import Call, StandIn, chat, get, post

TOKEN = "mlxd_admin_" + "t" * 43


@pytest.fixture(autouse=True)
def stand_in() -> Iterator[StandIn]:
    made = StandIn()
    runtime.install(made)  # type: ignore[arg-type]
    policy.install(policy.Policy(admin_digest=policy.digest(TOKEN)))
    yield made
    runtime.install(None)
    policy.install(policy.Policy())


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/absent", "/v1/chat", "/v1/chat/completions/", "/v1/chat/completions/x", "/v1/models/",
     "/health/absent", "/health/live/", "/api", "/api/absent", "/metrics", "/v1//models"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unknown_routes_are_404_json(method: str, path: str) -> None:
    answer = await Call(method, path, b"{}").start().result()
    assert answer.status == 404 and answer.headers["content-type"] == "application/json"
    assert answer.refusal["code"] in ("not_found", "model_not_found")
    assert answer.refusal["type"] == "not_found_error"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/anthropic/v1/messages"])
async def test_anthropic_routes_refuse_in_their_own_shape(path: str) -> None:
    answer = await post(path, chat())
    assert answer.status == 404
    assert answer.json()["type"] == "error" and answer.json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("POST", "/health/live", "GET"),
        ("HEAD", "/health", "GET"),
        ("OPTIONS", "/v1/chat/completions", "POST"),
        ("TRACE", "/v1/models", "GET"),
        ("POST", "/api/status", "GET"),
    ],
)
async def test_wrong_methods_are_405_with_allow(method: str, path: str, allow: str) -> None:
    answer = await Call(method, path).start().result()
    assert answer.status == 405 and answer.headers["allow"] == allow
    assert method == "HEAD" or answer.refusal["code"] == "method_not_allowed"


async def test_a_method_override_is_ignored() -> None:
    answer = await get("/v1/chat/completions", headers={"x-http-method-override": "POST"})
    assert answer.status == 405


# --- credentials ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        *(
            {"authorization": value}
            for value in ("", "Bearer", "Bearer ", "Bearer sk-local", "Bearer a b", "Basic eDp5")
        ),
        *({"authorization": f"Bearer {key}"} for key in ("not-needed", "dummy", "EMPTY", "x", "k" * 10_240)),
        {"x-api-key": "dummy"},
        {"x-api-key": "dummy", "authorization": "Bearer other"},
    ],
)
async def test_inference_takes_any_key_or_none(headers: dict[str, str]) -> None:
    assert (await post("/v1/chat/completions", chat(), headers=headers)).status == 200
    assert (await get("/v1/models", headers=headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer mlxd_sk_typo"},
        {"x-api-key": "mlxd_sk_typo"},
        {"api-key": "mlxd_sk_typo"},
        {"authorization": "Bearer dummy", "x-api-key": "mlxd_sk_typo"},
    ],
)
async def test_a_key_that_looks_like_ours_must_be_ours(stand_in: StandIn, headers: dict[str, str]) -> None:
    answer = await post("/v1/chat/completions", chat(), headers=headers)
    assert answer.status == 401 and answer.refusal["code"] == "invalid_api_key"
    assert answer.refusal["type"] == "authentication_error"
    assert b"typo" not in answer.body and not stand_in.asked


@pytest.mark.parametrize("headers", [{"authorization": f"Bearer {TOKEN}"}, {"authorization": f"bearer  {TOKEN} "}])
async def test_the_admin_gets_in(headers: dict[str, str]) -> None:
    answer = await get("/api/status", headers=headers)
    assert answer.status == 200
    model = answer.json()["models"][0]
    assert (model["id"], model["path"], model["created_s"]) == ("tiny", "/models/tiny", 1_700_000_000)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": TOKEN}, 401),
        ({"authorization": f"Bearer {TOKEN}x"}, 401),
        ({"authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"authorization": "Bearer mlxd_admin_"}, 401),
        ({"authorization": f"Bearer {TOKEN}", "x-api-key": "other"}, 401),
        ({"authorization": "Bearer mlxd_sk_" + "k" * 43}, 401),
        ({"cookie": f"mlxd_session_8080={TOKEN}"}, 401),
    ],
)
async def test_nobody_else_does(headers: dict[str, str], status: int) -> None:
    answer = await get("/api/status", headers=headers)
    assert answer.status == status and answer.refusal["code"] in ("invalid_api_key", "insufficient_scope")
    assert TOKEN.encode()[11:] not in answer.body


async def test_a_token_in_the_query_is_no_token() -> None:
    call = Call("GET", "/api/status")
    call.scope["query_string"] = f"token={TOKEN}&key={TOKEN}".encode()
    assert (await call.start().result()).status == 401


async def test_without_a_policy_nobody_is_the_admin() -> None:
    policy.install(policy.Policy())
    assert (await get("/api/status", headers={"authorization": f"Bearer {TOKEN}"})).status == 401


def test_the_policy_of_a_configuration(tmp_path: object) -> None:
    config = Config(state_dir=tmp_path, temperature=0.3, keepalive_s=2.0, strip_thinking=True)  # type: ignore[arg-type]
    made = policy.Policy.of(config, TOKEN)
    assert made.sampling == {"temperature": 0.3} and made.keepalive_s == 2.0 and made.strip_thinking
    assert made.admin_digest == policy.digest(TOKEN)


# --- deny by default --------------------------------------------------------------------------------------------


def test_every_operation_declares_who_may_call_it() -> None:
    assert list(undeclared(api)) == []


def test_an_operation_that_does_not_is_found() -> None:
    forgetful, router = NinjaAPI(urls_namespace="forgetful", docs_url=None, openapi_url=None), Router()

    @router.get("/open", auth=Public())
    def declared(request: object) -> None: ...

    @router.post("/forgotten")
    def forgotten(request: object) -> None: ...

    @router.delete("/nothing", auth=None)
    def nothing(request: object) -> None: ...

    @router.get("/other", auth=lambda request: True)
    def other(request: object) -> None: ...

    forgetful.add_router("/x", router)
    assert list(undeclared(forgetful)) == ["POST /x/forgotten", "DELETE /x/nothing", "GET /x/other"]


def test_django_has_nothing_to_complain_of() -> None:
    call_command("check", fail_level="WARNING")


async def test_the_api_is_not_described_in_public() -> None:
    for path in ("/v1/openapi.json", "/openapi.json", "/v1/docs", "/docs", "/static/ninja/swagger-ui-bundle.js"):
        assert (await get(path)).status == 404


# --- pages and static files -------------------------------------------------------------------------------------


async def test_json_carries_no_page_headers() -> None:
    assert "content-security-policy" not in (await get("/v1/models")).headers


@override_settings(ROOT_URLCONF="tests.integration.api_page_urls")
async def test_pages_carry_the_policy() -> None:
    from django.core.handlers.asgi import ASGIHandler

    import mlxd.asgi

    call = Call("GET", "/page")
    del mlxd.asgi
    messages: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        messages.append(message)

    await ASGIHandler()(call.scope, call.incoming.get, send)  # type: ignore[arg-type]
    headers = {name.decode().lower(): value.decode() for name, value in messages[0]["headers"]}  # type: ignore[attr-defined]
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY" and headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff" and headers["cross-origin-opener-policy"] == "same-origin"


async def test_static_files_are_served_without_a_thread() -> None:
    answer = await get("/static/dashboard/status.css")
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/css")
    assert len(answer.body) == int(answer.headers["content-length"]) > 1000
    assert (await get("/static/absent.css")).status == 404
    assert (await get("/static/../settings.py")).status == 404


async def test_websockets_are_refused() -> None:
    from mlxd.asgi import application

    sent = []

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, object]) -> None:
        sent.append(message["type"])

    await application({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == ["websocket.close"]
