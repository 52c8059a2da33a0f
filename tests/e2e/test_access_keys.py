"""Keys from the command line to the client, whom they keep out, and that one key's crowd starves no other's."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.daemon import MLXD, ServedDaemon, clean_environment
from tests.e2e.doors import Guarded
from tests.e2e.scripted_client import SCRIPTED

# --- keys, from the command line to the client ------------------------------------------------------------------------


def command(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [*MLXD, *words, "--state-dir", str(state)]
    return subprocess.run(line, capture_output=True, text=True, timeout=240, env=clean_environment(), check=False)


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
    secret = httpx.post(
        f"{guarded.served.url}/api/keys", headers=guarded.served.admin, json={"name": "other"}, timeout=60
    ).json()
    other = {"Authorization": f"Bearer {secret['key']}"}
    told = httpx.post(f"{url}/chat/completions", json=body, headers=guarded.infer, timeout=60).headers["x-conv-id"]
    theirs = httpx.post(f"{url}/chat/completions", json={**body, "session_id": told}, headers=other, timeout=60)
    assert theirs.status_code == 200
    sessions = httpx.get(f"{guarded.served.url}/api/sessions", headers=guarded.served.admin, timeout=60).json()[
        "sessions"
    ]
    owners = {row["owner"]: row["turns"] for row in sessions}
    assert len([row for row in sessions if row["id"] == told.removeprefix("conv_")]) == 1
    assert owners[secret["id"]] == 1, "a turn in a session of its own"
    for credential in (other, guarded.infer):
        assert httpx.delete(f"{url}/conv_kv/{told}", headers=credential, timeout=60).status_code in (404, 409)


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
        answer = httpx.get(f"{served.url}/v1/models", headers={"Authorization": "Bearer any"}, timeout=60)
        told = answer.json()["error"]["message"]
        assert answer.status_code == 401
        for words in (told, served.log.read_text()):
            assert "2 people" in words and "mlxd keys add" in words and "--no-require-key" in words, words
        key = httpx.post(f"{served.url}/api/keys", headers=served.admin, json={"name": "me"}, timeout=60).json()["key"]
        assert (
            httpx.get(f"{served.url}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=60).status_code
            == 200
        )


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
    assert httpx.get(f"{served.url}/api/status", headers=old, timeout=60).status_code == 401
    assert httpx.get(f"{served.url}/", headers=page, timeout=60).status_code == 302
    assert httpx.get(f"{served.url}/api/status", headers=served.admin, timeout=60).status_code == 200
    opened = command(served.state_dir, "open", "--print").stdout.strip()
    url, _, code = opened.partition("#")
    assert url == f"{served.url}/login" and len(code) == 43
    for status in (200, 401):
        answer = httpx.post(f"{served.url}/api/login", headers={"Origin": served.url}, json={"code": code}, timeout=60)
        assert answer.status_code == status


# --- fairness ---------------------------------------------------------------------------------------------------------


def test_sixty_four_clients_of_one_key_starve_no_other(serve: Callable[..., ServedDaemon]) -> None:
    """One answer at a time, of half a second: long beside the time in which a busy machine takes a request in. A key's
    turn comes after one answer of each other key, not after a queue."""
    paced = {"SCRIPT": json.dumps({"limits": {"vocab_size": 300_000}, "decode_s": 0.05})}
    served = serve("--max-batch", "1", command=SCRIPTED, environment=paced)
    served.wait_ready()
    many, one = (
        {"X-Api-Key": served.http.post("/api/keys", headers=served.admin, json={"name": name}).json()["key"]}
        for name in ("many", "one")
    )
    overtaken, counts = asyncio.run(crowd(served.url, many, one))
    assert counts.get(200, 0) > 0 and counts.get(503, 0) > 0 and counts.keys() <= {200, 503}, counts
    assert sorted(overtaken)[2] <= 4, overtaken  # the one that runs and one whose turn it is, of the 8 that may wait


async def crowd(url: str, many: dict[str, str], one: dict[str, str]) -> tuple[list[int], dict[int, int]]:
    """How many answers the others got while the one waited for each of its own, with 64 of a key asking for ever."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}
    counts: dict[int, int] = {}
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=80)) as client:

        async def again_and_again() -> None:
            while True:
                status = (await client.post("/v1/chat/completions", json=body, headers=many)).status_code
                counts[status] = counts.get(status, 0) + 1
                await asyncio.sleep(2)

        others = [asyncio.create_task(again_and_again()) for _ in range(64)]
        while not counts.get(503):
            await asyncio.sleep(0.02)
        overtaken = []
        for _ in range(5):
            before = counts.get(200, 0)
            answer = await client.post("/v1/chat/completions", json=body, headers=one)
            assert answer.status_code == 200, answer.text
            overtaken.append(counts.get(200, 0) - before)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    return overtaken, counts
