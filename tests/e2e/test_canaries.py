"""What becomes of secrets and of what is said: where it stays, and that it goes when it is told to."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from tests.e2e.daemon import ServedDaemon
from tests.e2e.doors import ADMIN, DOORS, Guarded, rows

CANARIES = 1000
MARK = "canary7f3a"
CONTENT_TABLES = {"ledger_spoken", "ledger_memory", "ledger_difference"}


def holds(path: Path) -> bool:
    """Whether a canary is in a file; one that has just gone holds nothing."""
    with suppress(FileNotFoundError):
        return MARK.encode() in path.read_bytes()
    return False


def traces(served: ServedDaemon, *, database: bool = True) -> list[str]:
    """Every file of the daemon that holds a canary, and every admin's answer that does."""
    found = [served.log, *(path for path in served.state_dir.rglob("*") if path.is_file())]
    kept = [path.name for path in found if (database or ".sqlite3" not in path.name) and holds(path)]
    process = Path("/proc") / str(served.process.pid)
    told = (process / name for name in ("cmdline", "environ"))
    kept += [path.name for path in told if holds(path)]
    for door in DOORS:
        if door.auth == ADMIN and door.method == "GET":
            answer = httpx.get(f"{served.url}{door.path}", headers=served.admin, timeout=60)
            if MARK in answer.text or MARK in str(answer.headers):
                kept.append(door.path)
    return kept


def test_a_thousand_keys_leave_no_trace(guarded: Guarded) -> None:
    page = guarded.served.browser()
    carriers: list[Callable[[str], dict[str, Any]]] = [
        lambda key: {"headers": {"Authorization": f"Bearer {key}"}},
        lambda key: {"headers": {"X-Api-Key": key}},
        lambda key: {"headers": {"Api-Key": key, "Authorization": f"Basic {key}"}},
        lambda key: {"params": {"key": key, "token": key}},
        lambda key: {"headers": {"Cookie": f"mlxd_session_{guarded.served.url.rpartition(':')[2]}={key}"}},
        lambda key: {"headers": {**page, "X-MLXD-CSRF": key}},
    ]
    wanted = [("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/api/keys"), ("POST", "/api/keys")]
    for number in range(CANARIES):
        prefix = ("mlxd_sk_", "mlxd_admin_", "sk-", "")[number % 4]
        key = f"{prefix}{MARK}{secrets.token_hex(12)}"
        if number % 10 == 9:
            method, path = "POST", "/api/login"
            given: dict[str, Any] = {"headers": {"Origin": guarded.served.url}}
            body: dict[str, Any] = {("code", "token")[number % 20 == 9]: key}
        else:
            (method, path), given, body = wanted[number % len(wanted)], carriers[number % len(carriers)](key), {}
        answer = guarded.client.request(method, path, json=body if method == "POST" else None, **given)
        assert answer.status_code in (200, 400, 401, 403, 429), (method, path, given)
        assert MARK not in answer.text and MARK not in str(answer.headers)
    assert traces(guarded.served) == []


def talk(number: int, canary: Callable[[], str]) -> dict[str, Any]:
    """A request with a canary in every field that holds what somebody wrote; some of them are refused."""
    tool = {"name": "look", "description": canary(), "parameters": {"type": "object", "properties": {canary(): {}}}}
    call = {"id": canary(), "type": "function", "function": {"name": "look", "arguments": json.dumps({"a": canary()})}}
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{canary()}"}}
    asked = [{"type": "text", "text": canary()}, *([image] if number % 4 == 3 else [])]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": f"You know {' and '.join(canary() for _ in range(16))}."},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": canary()},
    ]
    fields: dict[str, Any] = {"messages": messages, "tools": [{"type": "function", "function": tool}], "max_tokens": 2}
    more = {"user": canary(), "stop": [canary()], "metadata": {"a": canary()}, "session_id": f"s{number % 5}"}
    bent = {"response_format": {"type": canary()}} if number % 8 == 1 else {}
    return {**fields, **more, **bent, "stream": number % 2 == 0}


def test_what_is_said_is_in_its_own_tables_and_goes_when_it_is_told_to(serve: Callable[..., ServedDaemon]) -> None:
    served, canaries = serve(), list[str]()
    served.wait_ready()

    def canary() -> str:
        canaries.append(f"{MARK}{secrets.token_hex(8)}")
        return canaries[-1]

    with httpx.Client(base_url=served.url, timeout=60) as client:
        for number in range(CANARIES // 25):
            answer = client.post("/v1/chat/completions", json=talk(number, canary))
            assert answer.status_code == (400 if number % 8 == 1 or number % 4 == 3 else 200), answer.text
            assert answer.status_code == 200 or MARK not in answer.text, answer.text
    assert len(canaries) >= CANARIES
    assert traces(served, database=False) == []
    kept = {name for name, found in rows(served.state_dir).items() if MARK in repr(found)}
    assert kept and kept <= CONTENT_TABLES, "a session that changes says where"
    assert {path.stat().st_mode & 0o777 for path in served.state_dir.glob("mlxd.sqlite3*")} == {0o600}

    for session in httpx.get(f"{served.url}/api/sessions", headers=served.admin, timeout=60).json()["sessions"]:
        path = f"{served.url}/api/sessions/{quote(session['id'])}"
        assert httpx.delete(path, headers=served.admin, timeout=60).status_code == 200
    until_s = time.monotonic() + 60
    files = [served.log, *served.state_dir.glob("mlxd.sqlite3*")]
    while any(map(holds, files)) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert not any(map(holds, files)), "neither in a row nor in a page that was a row's"
