"""Every route of a real daemon against everybody who should not get in."""

from __future__ import annotations

import hashlib
import hmac
import re
import socket

import httpx
import pytest

from tests.e2e.doors import ADMIN, DOORS, INFER, OPEN, Door, Guarded, rows


def test_no_door_opens_for_those_it_is_not_for(guarded: Guarded) -> None:
    right, wrong = guarded.right, guarded.wrong_scope
    before = rows(guarded.served.state_dir)
    assert {door.auth for door in DOORS} == {INFER, ADMIN, OPEN, "page"} and len(DOORS) > 40
    for door in DOORS:
        for given in ({}, {"Authorization": "Bearer any"}, {"X-Api-Key": "mlxd_sk_bad"}, {"Api-Key": "mlxd_admin_bad"}):
            refused(door, guarded.ask(door, **given), unknown=True)
        refused(door, guarded.ask(door, **wrong[door.auth]), unknown=door.auth == "page")
        if door.auth in (INFER, ADMIN):
            two = {**right[door.auth], "X-Api-Key": "another"}
            assert guarded.ask(door, **two).status_code == 401, door
            assert guarded.ask(door, Cookie=f"key={right[door.auth]['Authorization'][7:]}").status_code == 401, door
            query = Door(door.method, f"{door.path}?key={right[door.auth]['Authorization'][7:]}", door.auth)
            assert guarded.ask(query).status_code == 401, door
    assert rows(guarded.served.state_dir) == before, "nothing that was refused has done anything"


def refused(door: Door, answer: httpx.Response, *, unknown: bool) -> None:
    if door.auth == OPEN:
        assert answer.status_code not in (302, 401), door
    elif door.auth == "page":
        assert (answer.status_code, answer.headers.get("location")) in ((302, "/login"), (401, None)), door
        assert "demo" not in answer.text
    else:
        assert answer.status_code == (401 if unknown else 403), (door, answer.text)
        assert answer.json()["error"]["code"] == ("invalid_api_key" if unknown else "insufficient_scope")
        assert answer.headers["content-type"] == "application/json"


def test_no_door_opens_for_a_page_of_another_site(guarded: Guarded) -> None:
    right = guarded.right
    for door in DOORS:
        given, port = right[door.auth], guarded.served.url.rpartition(":")[2]
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1:1", f"127.0.0.1.evil.example:{port}", ""):
            assert guarded.ask(door, **{**given, "Host": host}).status_code == 421, (door, host)
        for origin in ("https://evil.example", "null", "http://localhost:3000", f"https://127.0.0.1:{port}"):
            answer = guarded.ask(door, **{**given, "Origin": origin})
            assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers, (door, origin)
        crossed = guarded.ask(door, **given, Sec_Fetch_Site="cross-site")
        assert crossed.status_code == 403 or door.path == "/health/live", door
        preflight = guarded.client.request("OPTIONS", door.path, headers={"Origin": "https://evil.example"})
        assert preflight.status_code == 403, door
        if door.takes_json:
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
                assert guarded.ask(door, **{**given, "Content-Type": kind}).status_code == 415, (door, kind)


def test_no_header_moves_a_door(guarded: Guarded) -> None:
    for door in DOORS:
        bare = guarded.ask(door).status_code
        for name in ("Daphne-Root-Path", "X-Forwarded-Prefix", "X-Script-Name", "X-Original-URL"):
            for value in ("/x", "/api", "/health"):
                assert guarded.ask(door, **{name: value}).status_code == bare, (door, name)
        moved = Door(door.method, f"/x{door.path}", door.auth)
        assert guarded.ask(moved, Daphne_Root_Path="/x").status_code in (404, 405), door


def test_a_browser_s_cookie_is_good_for_pages_and_for_nothing_that_changes(guarded: Guarded) -> None:
    cookie = {"Cookie": guarded.served.browser()["Cookie"]}
    before = rows(guarded.served.state_dir)
    for door in DOORS:
        answer = guarded.ask(door, **cookie)
        if door.auth == INFER:
            assert answer.status_code == 401, door
        elif door.auth == ADMIN and door.method != "GET":
            assert answer.status_code == 403, door
        else:
            assert answer.status_code not in (401, 403) or door.path == "/api/login", door
    assert rows(guarded.served.state_dir) == before


def test_who_has_a_browser_s_cookie_cannot_find_out_what_a_change_takes(guarded: Guarded) -> None:
    """The cookie goes to every port of this machine. Whoever gets it there may read every page and answer with it."""
    page = guarded.served.browser()
    value, told = page["Cookie"].partition("=")[2], page["X-MLXD-CSRF"]
    readable = [door for door in DOORS if door.method == "GET" and door.auth != INFER]
    answers = [guarded.ask(door, Cookie=page["Cookie"]) for door in readable]
    seen = "".join(f"{answer.headers} {answer.text}" for answer in answers)
    assert told not in seen and told not in repr(rows(guarded.served.state_dir))
    made = {hashlib.sha256(value.encode()).hexdigest(), hmac.new(value.encode(), b"mlxd csrf", "sha256").hexdigest()}
    guesses = ["", value, value[::-1], *made, *re.findall(r"\b[0-9a-f]{64}\b", seen)[:4]]
    before = rows(guarded.served.state_dir)
    for door in (door for door in DOORS if door.auth == ADMIN and door.method != "GET"):
        for guess in guesses:
            answer = guarded.ask(door, **{**page, "X-MLXD-CSRF": guess})
            assert answer.status_code == 403, (door, guess)
    assert rows(guarded.served.state_dir) == before
    url = f"{guarded.served.url}/api/login/code"
    assert [
        httpx.post(url, headers=page, json={}, timeout=60).status_code,
        httpx.post(url, json={}, timeout=60).status_code,
    ] == [200, 401]
    assert httpx.post(url, headers={**page, "Origin": "http://localhost:1"}, json={}, timeout=60).status_code == 403


def test_every_door_that_only_asks_opens_for_those_it_is_for_and_changes_nothing(guarded: Guarded) -> None:
    right = guarded.right
    before = rows(guarded.served.state_dir)
    for door in DOORS:
        if door.method == "GET":
            answer = guarded.ask(door, **right[door.auth])
            known = {200, 302, 400, 404} if "x" in door.path or door.auth == OPEN else {200}
            assert answer.status_code in known, (door, answer.text)
        for method in {"HEAD", "OPTIONS", "TRACE"} - {door.method}:
            assert guarded.client.request(method, door.path).status_code in (401, 404, 405, 302, 200), door
    assert rows(guarded.served.state_dir) == before


@pytest.mark.parametrize(
    "path",
    ["//api/keys", "/api//keys", "/v1/../api/keys", "/%2e%2e/api/keys", "/api/keys;x", "/api/keys%00", "/API/keys",
     "/api/keys/", "/api%2fkeys", "/api/./keys", "/health/../api/keys", "/static/../api/keys", "/\\api/keys", "http://evil/api/keys"],
)  # fmt: skip
def test_a_crooked_path_leads_nowhere(guarded: Guarded, path: str) -> None:
    """Sent as it is: no client library tidies it up."""
    port = int(guarded.served.url.rpartition(":")[2])
    for credential in ("", f"Authorization: {guarded.infer['Authorization']}\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
            head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{credential}\r\n"
            raw.sendall(head.encode("latin-1"))
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        assert answer.split(b" ")[1] in (b"400", b"404"), answer[:200]
        assert b"digest" not in answer and b"requests_per_minute" not in answer
