"""Every route of a real daemon against everybody who should not get in, and what becomes of secrets on the way.

The routes are read from the routers, so one that is added is tried by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest

from mlxd.api.auth import AdminBearer, AnyKey, Public
from mlxd.api.root import api
from tests.e2e.daemon import MLXD, ServedDaemon, clean_environment
from tests.e2e.test_holding_up import SCRIPTED

SCRIPT = {"SCRIPT": json.dumps({"limits": {"vocab_size": 300_000}})}
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Door:
    """One operation or page: `auth` is the class that guards it, or `page`."""

    method: str
    path: str
    auth: str

    @property
    def takes_json(self) -> bool:
        return self.method in ("POST", "PUT", "PATCH") and self.path.startswith(("/v1", "/api"))


def doors() -> Iterator[Door]:
    for prefix, router in api._routers:
        for path, view in router.path_operations.items():
            for operation in view.operations:
                (auth,) = operation.auth_callbacks
                for method in operation.methods:
                    yield Door(method, re.sub(r"\{[^}]*\}", "x", f"{prefix}{path}"), type(auth).__name__)
    yield Door("GET", "/", "page")
    yield Door("GET", "/?part=figures", "page")
    yield Door("GET", "/login", Public.__name__)


DOORS = tuple(doors())
INFER, ADMIN, OPEN = AnyKey.__name__, AdminBearer.__name__, Public.__name__


@dataclass
class Guarded:
    """A daemon that asks for keys, with one of each scope."""

    served: ServedDaemon
    infer: dict[str, str]
    admin: dict[str, str]

    def ask(self, door: Door, **headers: str) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        body = b"{}" if door.takes_json else None
        return self.client.request(door.method, door.path, headers={**(JSON if body else {}), **given}, content=body)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.served.url, timeout=60)

    @property
    def right(self) -> dict[str, dict[str, str]]:
        return {INFER: self.infer, ADMIN: self.served.admin, OPEN: {}, "page": self.served.browser()}

    @property
    def wrong_scope(self) -> dict[str, dict[str, str]]:
        return {INFER: self.admin, ADMIN: self.infer, OPEN: {}, "page": self.served.admin}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    state = tmp_path_factory.mktemp("guarded") / "state"
    with ServedDaemon(state, ["--demo", "--require-key"], SCRIPTED, SCRIPT) as served:
        served.wait_ready()
        made = [
            httpx.post(f"{served.url}/api/keys", headers=served.admin, json={"name": scope, "scopes": [scope]}).json()
            for scope in ("infer", "admin")
        ]
        infer, admin = ({"Authorization": f"Bearer {key['key']}"} for key in made)
        opened = Guarded(served, infer, admin)
        yield opened
        opened.client.close()
        assert served.process.poll() is None, "a request has ended the daemon"


def rows(state: Path) -> dict[str, list[str]]:
    """All tables, but for when a key or a browser was last seen."""
    with closing(sqlite3.connect(f"file:{state / 'mlxd.sqlite3'}?mode=ro", uri=True)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found = {name: sorted(map(repr, database.execute(f"SELECT * FROM {name}"))) for name in names}
        found["ledger_key"] = sorted(map(repr, database.execute("SELECT id, digest, name, scopes FROM ledger_key")))
        found["ledger_browsersession"] = sorted(map(repr, database.execute("SELECT digest FROM ledger_browsersession")))
        return found


# --- every door -------------------------------------------------------------------------------------------------


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
    assert [httpx.post(url, headers=page, json={}).status_code, httpx.post(url, json={}).status_code] == [200, 401]
    assert httpx.post(url, headers={**page, "Origin": "http://localhost:1"}, json={}).status_code == 403


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
        with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
            head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{credential}\r\n"
            raw.sendall(head.encode("latin-1"))
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        assert answer.split(b" ")[1] in (b"400", b"404"), answer[:200]
        assert b"digest" not in answer and b"requests_per_minute" not in answer


# --- keys, from the command line to the client ------------------------------------------------------------------


def command(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [*MLXD, *words, "--state-dir", str(state)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, env=clean_environment(), check=False)


def test_a_key_made_beside_a_running_daemon_counts_at_once(guarded: Guarded) -> None:
    state, url = guarded.served.state_dir, guarded.served.url
    made = command(state, "keys", "add", "laptop")
    lines = dict(line.removeprefix("export ").split("=", 1) for line in made.stdout.splitlines())
    assert lines["OPENAI_BASE_URL"] == f"{url}/v1"
    with openai.OpenAI(base_url=lines["OPENAI_BASE_URL"], api_key=lines["OPENAI_API_KEY"], max_retries=0) as sdk:
        said = sdk.chat.completions.create(model="demo", messages=[{"role": "user", "content": "Hi"}], max_tokens=3)
        assert said.usage is not None and said.usage.completion_tokens == 3
        (row,) = [row for row in json.loads(command(state, "keys", "ls", "--json").stdout) if row["name"] == "laptop"]
        assert (row["requests"], row["prompt_tokens"]) == (1, said.usage.prompt_tokens)
        assert row["completion_tokens"] == 3 and row["last_used_s"]
        assert command(state, "keys", "rm", "laptop").returncode == 0
        with pytest.raises(openai.AuthenticationError):
            sdk.models.list()
    other = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
    with other, pytest.raises(openai.AuthenticationError):
        other.models.list()


def test_what_one_key_began_is_not_there_for_another(guarded: Guarded) -> None:
    url, body = f"{guarded.served.url}/v1", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    secret = httpx.post(f"{guarded.served.url}/api/keys", headers=guarded.served.admin, json={"name": "other"}).json()
    other = {"Authorization": f"Bearer {secret['key']}"}
    told = httpx.post(f"{url}/chat/completions", json=body, headers=guarded.infer).headers["x-conv-id"]
    theirs = httpx.post(f"{url}/chat/completions", json={**body, "session_id": told}, headers=other)
    assert theirs.status_code == 200
    sessions = httpx.get(f"{guarded.served.url}/api/sessions", headers=guarded.served.admin).json()["sessions"]
    owners = {row["owner"]: row["turns"] for row in sessions}
    assert len([row for row in sessions if row["id"] == told.removeprefix("conv_")]) == 1
    assert owners[secret["id"]] == 1, "a turn in a session of its own"
    for credential in (other, guarded.infer):
        assert httpx.delete(f"{url}/conv_kv/{told}", headers=credential).status_code in (404, 409)


SHARED = """
import pwd, sys
sys.platform = "linux"
pwd.getpwall = lambda: [pwd.struct_passwd((str(uid), "x", uid, uid, "", "/", "/bin/sh")) for uid in (1000, 1001)]
from mlxd.cli import main
main()
"""


def test_where_two_people_have_accounts_a_key_is_required(tmp_path: Path) -> None:
    command_line = [sys.executable, "-P", "-c", SHARED]
    with ServedDaemon(tmp_path / "s", ["--demo"], command_line, {"MLXD_REQUIRE_KEY": "auto"}) as served:
        answer = httpx.get(f"{served.url}/v1/models", headers={"Authorization": "Bearer any"})
        told = answer.json()["error"]["message"]
        assert answer.status_code == 401
        for words in (told, served.log.read_text()):
            assert "2 people" in words and "mlxd keys add" in words and "--no-require-key" in words, words
        key = httpx.post(f"{served.url}/api/keys", headers=served.admin, json={"name": "me"}).json()["key"]
        assert httpx.get(f"{served.url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_other_machines_are_let_in_by_three_things_together(tmp_path: Path) -> None:
    """Nothing listens here but on loopback: the last of the three is found out before that."""
    for words, name in ((["--host", "0.0.0.0"], "require_key"), (["--host", "0.0.0.0", "--require-key"], "no key yet")):
        done = command(tmp_path / "state", "serve", "--demo", "--port", "0", *words)
        assert done.returncode == 2 and name in done.stderr, done.stderr
        assert "mlxd keys add" in done.stderr


def test_a_stranger_on_the_port_is_sent_no_token(guarded: Guarded, tmp_path: Path) -> None:
    """The state directory says where its daemon listens; somebody else has come to listen there."""
    from mlxd.instance import claim, publish
    from mlxd.paths import StateDir, admin_token, open_state_dir, secret_key

    state: StateDir = open_state_dir(tmp_path / "state")
    admin_token(state)
    secret_key(state)
    with claim(state):
        publish(state, guarded.served.url)
        done = command(state.root, "keys", "ls")
    assert done.returncode == 2 and "sent no token" in done.stderr


def test_a_new_token_counts_at_once(guarded: Guarded) -> None:
    served = guarded.served
    old, page = served.admin, served.browser()
    told = command(served.state_dir, "token", "rotate")
    assert told.returncode == 0 and "signed out" in told.stdout
    token = served.admin["Authorization"][7:]
    assert served.admin != old and token not in told.stdout + told.stderr
    assert httpx.get(f"{served.url}/api/status", headers=old).status_code == 401
    assert httpx.get(f"{served.url}/", headers=page).status_code == 302
    assert httpx.get(f"{served.url}/api/status", headers=served.admin).status_code == 200
    opened = command(served.state_dir, "open", "--print").stdout.strip()
    url, _, code = opened.partition("#")
    assert url == f"{served.url}/login" and len(code) == 43
    for status in (200, 401):
        answer = httpx.post(f"{served.url}/api/login", headers={"Origin": served.url}, json={"code": code})
        assert answer.status_code == status


# --- canaries ---------------------------------------------------------------------------------------------------

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

    for session in httpx.get(f"{served.url}/api/sessions", headers=served.admin).json()["sessions"]:
        path = f"{served.url}/api/sessions/{quote(session['id'])}"
        assert httpx.delete(path, headers=served.admin, timeout=60).status_code == 200
    until_s = time.monotonic() + 10
    files = [served.log, *served.state_dir.glob("mlxd.sqlite3*")]
    while any(map(holds, files)) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert not any(map(holds, files)), "neither in a row nor in a page that was a row's"


# --- fairness ---------------------------------------------------------------------------------------------------


def test_sixty_four_clients_of_one_key_starve_no_other(serve: Callable[..., ServedDaemon]) -> None:
    """One answer at a time, of 0.2 s. A key's turn comes after one answer of each other key."""
    paced = {"SCRIPT": json.dumps({"limits": {"vocab_size": 300_000}, "decode_s": 0.02})}
    served = serve("--max-batch", "1", command=SCRIPTED, environment=paced)
    served.wait_ready()
    many, one = (
        {"X-Api-Key": httpx.post(f"{served.url}/api/keys", headers=served.admin, json={"name": name}).json()["key"]}
        for name in ("many", "one")
    )
    waits_s, counts = asyncio.run(crowd(served.url, many, one))
    assert counts.get(200, 0) > 0 and counts.get(503, 0) > 0 and counts.keys() <= {200, 503}, counts
    assert max(waits_s) < 10 * 3 * 0.2, waits_s


async def crowd(url: str, many: dict[str, str], one: dict[str, str]) -> tuple[list[float], dict[int, int]]:
    """How long the one waits for each of its answers while 64 others of a key ask again and again."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}
    counts: dict[int, int] = {}
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=80)) as client:

        async def again_and_again() -> None:
            while True:
                status = (await client.post("/v1/chat/completions", json=body, headers=many)).status_code
                counts[status] = counts.get(status, 0) + 1
                await asyncio.sleep(0.2)

        others = [asyncio.create_task(again_and_again()) for _ in range(64)]
        while not counts.get(503):
            await asyncio.sleep(0.02)
        waits_s = []
        for _ in range(5):
            began_s = time.monotonic()
            answer = await client.post("/v1/chat/completions", json=body, headers=one)
            assert answer.status_code == 200, answer.text
            waits_s.append(time.monotonic() - began_s)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    return waits_s, counts
