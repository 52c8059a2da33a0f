"""Signing a browser in and out: by a code, by the token, from the login page and nowhere else; and what a cookie is
good for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxd import runtime
from mlxd.api import policy
from mlxd.api.checks import unmarked
from mlxd.keys import access
from mlxd.keys.access import GUESSES_PER_MINUTE, Access
from mlxd.keys.browsers import IDLE_S
from mlxd.start_errors import UnsafeStateDir
from tests.integration.api_scripted import Answer, Call, StandIn, get

TOKEN = "mlxd_admin_" + "t" * 43
ADMIN = {"authorization": f"Bearer {TOKEN}"}
OWN = {"origin": "http://127.0.0.1:8080"}


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    made = StandIn()
    runtime.install(made)  # type: ignore[arg-type]
    policy.install(policy.Policy(admin_digest=policy.digest(TOKEN)))
    access.install(Access(token_file=tmp_path / "admin.token"))
    yield made
    runtime.install(None)
    policy.install(policy.Policy())
    access.install(Access())


async def post(path: str, body: Any = None, **headers: str) -> Answer:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await Call("POST", path, json.dumps(body or {}).encode(), given).start().result()


async def code() -> str:
    minted = await post("/api/login/code", **ADMIN)
    assert minted.json()["expires_in_s"] == 60
    return str(minted.json()["code"])


async def signed_in() -> str:
    """What the cookie holds."""
    return (await browser())[0]


async def browser() -> tuple[str, str]:
    """What the cookie holds, and what the page sends with a change."""
    answer = await post("/api/login", {"code": await code()}, **OWN)
    assert answer.status == 200, answer.body
    name, _, value = answer.headers["set-cookie"].partition(";")[0].partition("=")
    assert name == "mlxd_session_8080" and answer.headers["cache-control"] == "no-store"
    return value, answer.json()["csrf"]


def cookie(value: str) -> dict[str, str]:
    return {"cookie": f"mlxd_session_8080={value}"}


# --- signing in -------------------------------------------------------------------------------------------------


async def test_a_code_signs_one_browser_in_and_no_second() -> None:
    minted = await code()
    answer = await post("/api/login", {"code": minted}, **OWN)
    assert answer.status == 200
    told = answer.headers["set-cookie"].lower()
    assert "httponly" in told and "samesite=strict" in told and "path=/" in told and "domain" not in told
    again = await post("/api/login", {"code": minted}, **OWN)
    assert (again.status, again.refusal["code"]) == (401, "invalid_api_key") and "set-cookie" not in again.headers


@pytest.mark.parametrize(
    "origin", [None, "null", "http://127.0.0.1:3000", "http://localhost:8080", "https://evil.example"]
)
async def test_only_the_login_page_signs_in(origin: str | None) -> None:
    headers = {} if origin is None else {"origin": origin}
    for body in ({"code": await code()}, {"token": TOKEN}):
        answer = await post("/api/login", body, **headers)
        assert answer.status == 403 and "set-cookie" not in answer.headers


@pytest.mark.parametrize("body", [{}, {"code": ""}, {"code": "a", "token": "b"}, {"code": 5}, {"token": "x" * 513}])
async def test_what_signs_nobody_in(body: dict[str, Any]) -> None:
    assert (await post("/api/login", body, **OWN)).status == 400


async def test_the_token_may_be_typed_but_not_guessed() -> None:
    assert (await post("/api/login", {"token": TOKEN}, **OWN)).status == 200
    for _ in range(GUESSES_PER_MINUTE - 1):
        assert (await post("/api/login", {"token": f"{TOKEN}x"}, **OWN)).status == 401
    answer = await post("/api/login", {"token": TOKEN}, **OWN)
    assert answer.status == 429 and 1 <= int(answer.headers["retry-after"]) <= 60
    assert (await post("/api/login", {"code": await code()}, **OWN)).status == 200, "guessing locks nobody out"


async def test_a_failed_attempt_is_logged_without_its_value(capfd: pytest.CaptureFixture[str]) -> None:
    for body in ({"token": "canary-in-token"}, {"code": "canary-in-code"}):
        answer = await post("/api/login", body, **OWN)
        assert b"canary" not in answer.body
    told = capfd.readouterr()
    assert "login_refused" in told.out + told.err and "canary" not in told.out + told.err


# --- what a cookie is good for ----------------------------------------------------------------------------------


async def test_a_browser_may_ask_by_its_cookie_alone() -> None:
    value = await signed_in()
    assert (await get("/api/keys", headers=cookie(value))).status == 200
    assert (await get("/api/keys", headers={**cookie(value), **OWN})).status == 200
    assert (await get("/api/keys", headers={**cookie(value), "origin": "http://localhost:3000"})).status == 403
    for wrong in (value[:-1], "", "x"):
        assert (await get("/api/keys", headers=cookie(wrong))).status == 401
    assert (await get("/api/keys", headers={"cookie": f"mlxd_session_3000={value}"})).status == 401


async def test_a_cookie_alone_changes_nothing() -> None:
    (value, told), (_, of_another) = await browser(), await browser()
    good = {**cookie(value), **OWN, "x_mlxd_csrf": told}
    for lacking in ("cookie", "origin", "x_mlxd_csrf"):
        headers = {name: text for name, text in good.items() if name != lacking}
        assert (await post("/api/keys", {"name": "a"}, **headers)).status in (401, 403), lacking
    for wrong in ({"x_mlxd_csrf": of_another}, {"x_mlxd_csrf": ""}, {"origin": "http://127.0.0.1:3000"}):
        assert (await post("/api/keys", {"name": "a"}, **{**good, **wrong})).status == 403, wrong
    assert access.current().keyring.rows() == []
    assert (await post("/api/keys", {"name": "a"}, **good)).status == 200


async def test_a_cookie_is_no_key(stand_in: StandIn) -> None:
    value = await signed_in()
    policy.install(policy.Policy(admin_digest=policy.digest(TOKEN), require_key=True))
    assert (await get("/v1/models", headers=cookie(value))).status == 401
    assert (await get("/v1/models", headers={"authorization": f"Bearer {value}"})).status == 401


async def test_a_cookie_does_not_help_a_wrong_token() -> None:
    headers = {**cookie(await signed_in()), "authorization": "Bearer mlxd_admin_wrong"}
    assert (await get("/api/keys", headers=headers)).status == 401


async def test_a_browser_is_signed_out_by_itself_by_a_new_token_and_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    (one, told), other, idle = await browser(), await signed_in(), await signed_in()
    out = await post("/api/logout", **cookie(one), **OWN, x_mlxd_csrf=told)
    assert out.status == 200 and 'mlxd_session_8080=""' in out.headers["set-cookie"]
    assert (await get("/api/keys", headers=cookie(one))).status == 401
    monkeypatch.setattr("mlxd.keys.browsers.IDLE_S", -1.0)
    assert (await get("/api/keys", headers=cookie(idle))).status == 401
    monkeypatch.setattr("mlxd.keys.browsers.IDLE_S", IDLE_S)
    assert (await get("/api/keys", headers=cookie(other))).status == 200
    minted = await code()
    rotated = await post("/api/token/rotate", **ADMIN)
    assert rotated.json() == {"rotated": True, "signed_out": 2}
    assert (await get("/api/keys", headers=cookie(other))).status == 401
    assert (await get("/api/keys", headers=ADMIN)).status == 401
    assert (await post("/api/login", {"code": minted}, **OWN)).status == 401, "nor does a code that was minted before"


async def test_a_new_token_is_told_by_its_file_alone(tmp_path: Path) -> None:
    rotated = await post("/api/token/rotate", **ADMIN)
    token = (tmp_path / "admin.token").read_text().strip()
    assert token != TOKEN and token.encode() not in rotated.body
    assert (tmp_path / "admin.token").stat().st_mode & 0o777 == 0o600
    assert (await get("/api/keys", headers={"authorization": f"Bearer {token}"})).status == 200


async def test_a_token_that_cannot_be_written_leaves_the_old_one_good(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> str:
        raise UnsafeStateDir("admin.token cannot be written: No space left on device.")

    monkeypatch.setattr("mlxd.api.login.new_admin_token", full)
    refused = await post("/api/token/rotate", **ADMIN)
    assert refused.status == 409 and refused.refusal["code"] == "token_not_saved"
    assert "No space left" in refused.refusal["message"]
    assert (await get("/api/keys", headers=ADMIN)).status == 200


# --- pages ------------------------------------------------------------------------------------------------------


async def test_pages_are_for_the_signed_in() -> None:
    answer = await get("/")
    assert answer.status == 302 and answer.headers["location"] == "/login" and not answer.body
    part = Call("GET", "/")
    part.scope["query_string"] = b"part=figures"
    assert (await part.start().result()).status == 401
    for headers in (ADMIN, cookie("x")):
        assert (await get("/", headers=headers)).status == 302


async def test_the_login_page_tells_nothing_and_runs_nothing_inline() -> None:
    answer = await get("/login")
    page = answer.body.decode()
    assert answer.status == 200 and "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer" and answer.headers["cache-control"] == "no-store"
    assert (
        page.count("<script") == page.count("<script src=") == 1
        and "style=" not in page
        and " on" + "click" not in page
    )
    assert "tiny" not in page
    again = await get("/login", headers=cookie(await signed_in()))
    assert again.status == 200 and again.body == answer.body, "who may only look signs in again to change things"


def test_a_page_that_does_not_say_whom_it_is_for_is_found() -> None:
    from django.urls import get_resolver

    from tests.integration.api_page_urls import urlpatterns

    assert list(unmarked(get_resolver().url_patterns)) == []
    assert list(unmarked(urlpatterns)) == ["/page"]
