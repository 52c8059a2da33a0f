"""Named keys at the doors: what they open, what they part, and that making and removing one counts at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mlxd import runtime
from mlxd.api import policy
from mlxd.keys import access
from mlxd.keys.access import Access
from mlxd.keys.key import ApiKey, Scope, make_key
from tests.integration.api_scripted import Answer, Call, StandIn, chat, get, post

TOKEN = "mlxd_admin_" + "t" * 43
ADMIN = {"authorization": f"Bearer {TOKEN}"}
CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def stand_in() -> Iterator[StandIn]:
    made = StandIn()
    runtime.install(made)  # type: ignore[arg-type]
    policy.install(policy.Policy(admin_digest=policy.digest(TOKEN), secret=b"the daemon's"))
    access.install(Access())
    yield made
    runtime.install(None)
    policy.install(policy.Policy())
    access.install(Access())


async def added(name: str = "alice", **wanted: Any) -> tuple[dict[str, str], ApiKey]:
    """A key as a header, and what is kept of it."""
    secret, key = make_key(name, lambda _: False, **wanted)
    await access.current().keyring.add(key)
    return {"authorization": f"Bearer {secret}"}, key


async def refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.refusal["code"]) == (status, code), answer.body


# --- what opens what --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", ["authorization", "x-api-key", "api-key"])
async def test_every_carrier_is_read_by_one_function(stand_in: StandIn, carrier: str) -> None:
    secret, key = make_key("alice", lambda _: False)
    await access.current().keyring.add(key)
    value = f"Bearer {secret}" if carrier == "authorization" else secret
    policy.install(policy.Policy(require_key=True))
    assert (await post(CHAT, chat(), headers={carrier: value})).status == 200
    assert stand_in.asked[0]["client"] == key.id
    other = {"x-api-key": "mlxd_sk_other"} if carrier == "authorization" else {"authorization": "Bearer another"}
    await refused(await post(CHAT, chat(), headers={carrier: value, **other}), 401, "invalid_api_key")


@pytest.mark.parametrize("carrier", ["authorization", "x-api-key", "api-key"])
@pytest.mark.parametrize("secrets", [("any", "mlxd_sk_mistyped"), ("mlxd_sk_mistyped", "any"), ("any", "GOOD")])
async def test_a_header_of_the_same_name_hides_no_key(
    stand_in: StandIn, carrier: str, secrets: tuple[str, str]
) -> None:
    """Where any key will do, too: one of ours behind another is neither nobody's nor good."""
    secret, key = make_key("alice", lambda _: False)
    await access.current().keyring.add(key)
    call = Call("POST", CHAT, json.dumps(chat()).encode())
    scheme = "Bearer " if carrier == "authorization" else ""
    given = [f"{scheme}{secret if text == 'GOOD' else text}" for text in secrets]
    call.scope["headers"] += [(carrier.encode(), value.encode()) for value in given]  # type: ignore[operator]
    await refused(await call.start().result(), 401, "invalid_api_key")
    twice = Call("POST", CHAT, json.dumps(chat()).encode())
    twice.scope["headers"] += [(carrier.encode(), f"{scheme}{secret}".encode())] * 2  # type: ignore[operator]
    assert (await twice.start().result()).status == 200 and stand_in.asked[0]["client"] == key.id


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer any"}, {"cookie": "mlxd_session_8080=x"}])
async def test_a_key_is_asked_for_where_one_is_required(stand_in: StandIn, headers: dict[str, str]) -> None:
    assert (await post(CHAT, chat(), headers=headers)).status == 200
    policy.install(policy.Policy(require_key=True))
    await refused(await post(CHAT, chat(), headers=headers), 401, "invalid_api_key")
    await refused(await get("/v1/models", headers=headers), 401, "invalid_api_key")
    assert (await get("/health")).status == 200
    assert len(stand_in.asked) == 1


async def test_scopes_open_their_own_doors() -> None:
    infer, _ = await added("infer")
    admin, _ = await added("admin", scopes=[Scope.ADMIN])
    both, _ = await added("both", scopes=[Scope.ADMIN, Scope.INFER])
    assert (await post(CHAT, chat(), headers=infer)).status == 200
    assert (await get("/api/keys", headers=admin)).status == 200
    assert {(await get(path, headers=both)).status for path in ("/api/keys", "/v1/models")} == {200}
    await refused(await get("/api/keys", headers=infer), 403, "insufficient_scope")
    await refused(await post(CHAT, chat(), headers=admin), 403, "insufficient_scope")
    await refused(await post(CHAT, chat(), headers=ADMIN), 403, "insufficient_scope")


async def test_a_removed_key_and_one_that_has_expired_are_refused() -> None:
    headers, key = await added(expires_in_s=1000)
    assert (await post(CHAT, chat(), headers=headers)).status == 200
    await access.current().keyring.remove(key)
    await refused(await post(CHAT, chat(), headers=headers), 401, "invalid_api_key")
    headers, _ = await added("old", expires_in_s=-1)
    await refused(await post(CHAT, chat(), headers=headers), 401, "invalid_api_key")


async def test_a_key_comes_as_often_as_it_may() -> None:
    headers, _ = await added(requests_per_minute=2)
    assert [(await get("/v1/models", headers=headers)).status for _ in range(3)] == [200, 200, 429]
    answer = await get("/v1/models", headers=headers)
    assert 1 <= int(answer.headers["retry-after"]) <= 60 and answer.refusal["type"] == "rate_limit_error"
    assert (await get("/v1/models")).status == 200, "nobody else waits for it"
    admin, _ = await added("admin", requests_per_minute=2, scopes=[Scope.ADMIN])
    assert [(await get("/api/keys", headers=admin)).status for _ in range(3)] == [200, 200, 429]


async def test_a_key_for_some_models_knows_no_others(stand_in: StandIn) -> None:
    headers, _ = await added(models=["owner/other"])
    assert [model["id"] for model in (await get("/v1/models", headers=headers)).json()["data"]] == ["owner/other"]
    assert (await get("/v1/models/owner/other", headers=headers)).status == 200
    await refused(await get("/v1/models/tiny", headers=headers), 404, "model_not_found")
    assert (await post(CHAT, chat(model="owner/other"), headers=headers)).status == 200
    for named in ({"model": "tiny"}, {}):
        await refused(await post(CHAT, chat(**named), headers=headers), 404, "model_not_found")
    assert len(stand_in.asked) == 1


# --- what keys part ---------------------------------------------------------------------------------------------


async def test_keys_share_no_queue_no_cache_and_no_session(stand_in: StandIn) -> None:
    alice, _ = await added("alice")
    bob, _ = await added("bob")
    for headers in (alice, bob, alice, {}, {"authorization": "Bearer any"}):
        assert (await post(CHAT, chat(session_id="work"), headers=headers)).status == 200
    for field in ("client", "salt", "session"):
        first, second, again, keyless, any_key = (asked[field] for asked in stand_in.asked)
        assert first == again and keyless == any_key and len({first, second, keyless}) == 3, field
    assert stand_in.asked[3]["salt"] == b"" and stand_in.asked[3]["client"] == ""


async def test_a_salt_of_a_requests_own_parts_within_a_key(stand_in: StandIn) -> None:
    alice, _ = await added("alice")
    bob, _ = await added("bob")
    for headers in (alice, bob, {}):
        for fields in ({}, {"cache_salt": "one"}, {"cache_salt": "other"}):
            assert (await post(CHAT, chat(**fields), headers=headers)).status == 200
    assert len({asked["salt"] for asked in stand_in.asked}) == 9


async def test_the_line_of_a_request_names_the_key_by_its_id(capfd: pytest.CaptureFixture[str]) -> None:
    headers, key = await added()
    await post(CHAT, chat(), headers=headers)
    told = capfd.readouterr()
    assert f"key_id={key.id}" in told.out + told.err
    assert headers["authorization"][15:] not in told.out + told.err


# --- /api/keys --------------------------------------------------------------------------------------------------


async def test_a_key_is_made_used_listed_and_removed() -> None:
    made = (await post("/api/keys", {"name": "alice", "models": ["tiny"]}, headers=ADMIN)).json()
    assert made["scopes"] == ["infer"] and made["models"] == ["tiny"] and made["expires_s"] is None
    headers = {"x-api-key": made.pop("key")}
    assert (await post(CHAT, chat(), headers=headers)).status == 200
    listed = await get("/api/keys", headers=ADMIN)
    (row,) = listed.json()["keys"]
    assert row["requests"] == 1 and row["last_used_s"] >= row["created_s"]
    assert headers["x-api-key"][8:].encode() not in listed.body
    removal = await Call("DELETE", "/api/keys/alice", headers=ADMIN).start().result()
    assert removal.json() == {"id": made["id"], "name": "alice", "removed": True}
    await refused(await post(CHAT, chat(), headers=headers), 401, "invalid_api_key")
    await refused(await Call("DELETE", "/api/keys/alice", headers=ADMIN).start().result(), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": 1}, "name"),
        ({"name": "taken"}, "name"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["root"]}, "scopes"),
        ({"name": "x", "expires_in_s": 0}, "expires_in_s"),
        ({"name": "x", "requests_per_minute": -1}, "requests_per_minute"),
        ({"name": "x", "models": ["m"] * 65}, "models"),
    ],
)
async def test_what_makes_no_key(body: dict[str, Any], param: str) -> None:
    await added("taken")
    answer = await post("/api/keys", body, headers=ADMIN)
    assert answer.status == 400 and answer.refusal["param"] == param
    assert len(access.current().keyring.rows()) == 1


async def test_a_name_is_a_value_and_nothing_else() -> None:
    """Injection has nowhere to go: the names of a route are looked up in memory."""
    for name in ("'; DROP TABLE ledger_key; --", "%0d%0aSet-Cookie: x=1", "../keys", "a\x1b[2J"):
        answer = await Call("DELETE", f"/api/keys/{name}", headers=ADMIN).start().result()
        assert answer.status == 404 and "set-cookie" not in answer.headers


async def test_keys_are_for_the_admin() -> None:
    headers, _ = await added()
    for method, body in (("GET", b""), ("POST", json.dumps({"name": "x"}).encode())):
        assert (await Call(method, "/api/keys", body, headers=headers).start().result()).status == 403
        assert (await Call(method, "/api/keys", body).start().result()).status == 401
    assert (await Call("DELETE", "/api/keys/alice", headers=headers).start().result()).status == 403


async def test_the_identity_of_a_daemon_is_proved_by_its_secret() -> None:
    from mlxd.instance import proof

    call = Call("GET", "/health/identity")
    call.scope["query_string"] = b"challenge=" + b"ab" * 32
    told = (await call.start().result()).json()
    assert told == {"proof": proof(b"the daemon's", "ab" * 32)} and told["proof"] != proof(b"another's", "ab" * 32)
    assert (await get("/health/identity")).status == 400
