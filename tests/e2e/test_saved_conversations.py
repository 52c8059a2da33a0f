"""Conversations that stay on the disk until they are deleted: through a real daemon, past eviction and restarts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.daemon import MLXD, ServedDaemon, clean_environment
from tests.e2e.test_restart import SYSTEM
from tests.tiny_models import build

SMALL = ("--ssd-cache-bytes", "4MiB")


def talk(served: ServedDaemon, messages: list[dict[str, str]], then: str, name: str = "the one") -> tuple[int, int]:
    """A turn of a conversation with a name: prompt and cached tokens."""
    body = {"messages": messages, "max_tokens": 20, "temperature": 0, "conversation_id": name}
    answer = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60).raise_for_status().json()
    messages += [answer["choices"][0]["message"], {"role": "user", "content": then}]
    usage = answer["usage"]
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def begun(salt: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": f"{salt} {SYSTEM}"}, {"role": "user", "content": "Hello."}]


def post(served: ServedDaemon, act: str, body: object, **named: str) -> httpx.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in named.items()}}
    return httpx.post(f"{served.url}/v1/conv_kv/{act}", content=raw, headers=headers, timeout=60)


def stats(served: ServedDaemon, **named: str) -> dict[str, Any]:
    """Without a key one sees the conversation that one names, and how many there are."""
    url, headers = f"{served.url}/v1/conv_kv/stats", named or {"X-Conv-Id": "the one"}
    told: dict[str, Any] = httpx.get(url, headers=headers, timeout=60).raise_for_status().json()
    return told


def dropped(served: ServedDaemon, state: Path) -> dict[str, int]:
    token = (state / "admin.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    told: dict[str, int] = httpx.get(f"{served.url}/api/cache/stats", headers=headers, timeout=60).json()["disk"][
        "dropped"
    ]
    return told


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_saved_conversation_outlives_eviction_and_a_kill(serve: Callable[..., ServedDaemon], tmp_path: Path) -> None:
    kept, lost = begun("kept"), begun("lost")
    with serve(*SMALL) as served:
        served.wait_ready()
        talk(served, lost, "And then?", "other")
        talk(served, kept, "And then?")
        saved = post(served, "save", {"conversation_id": "the one", "title": "Rules"}).raise_for_status().json()
        assert saved["title"] == "Rules" and saved["blocks"] >= 2 and saved["bytes"] > 0
        again = post(served, "save", {"conversation_id": "the one"}).raise_for_status().json()
        assert {**again, "saved_at": 0} == {**saved, "saved_at": 0}, "saved again it is what it was"
        for number in range(40):
            talk(served, begun(f"filler {number}"), "", f"filler {number}")
            if dropped(served, tmp_path / "state0").get("evicted", 0) > 8:
                break
        assert dropped(served, tmp_path / "state0")["evicted"] > 8
        served.process.kill()
        served.process.wait(60)
    with ServedDaemon(tmp_path / "state0", served.arguments) as served:
        served.wait_ready()
        (listed,) = stats(served)["data"]
        assert {**listed, "saved_at": 0} == {**saved, "saved_at": 0}, "no file of it is gone"
        loaded = post(served, "load", {}, X_Conv_Id="the one").raise_for_status().json()
        assert (loaded["complete"], loaded["warm_tokens"], loaded["lost_files"]) == (True, saved["tokens"], 0)
        prompt, cached = talk(served, kept, "And after that?")
        assert cached >= 0.97 * prompt
        grown = post(served, "save", {"conversation_id": "the one"}).raise_for_status().json()
        assert grown["tokens"] > saved["tokens"] and grown["title"] == "Rules"
        prompt, cached = talk(served, lost, "", "other")
        assert cached < 0.97 * prompt, "what nobody saved has made room"


def test_what_is_asked_in_vain_says_so_and_what_is_deleted_is_gone(serve: Callable[..., ServedDaemon]) -> None:
    with serve() as served:
        served.wait_ready()
        talk(served, begun("one"), "")
        for act in ("save", "load"):
            for garbage in (b"", b"{", b"[]", b"\xff", b'{"conversation_id": 5, "conversation_id": 6}'):
                assert post(served, act, garbage).status_code == 400
            assert code_of(post(served, act, {}))[0] == 400, "no name"
            assert code_of(post(served, act, {"conversation_id": "stranger"})) == (404, "not_found")
            assert code_of(post(served, act, {"conversation_id": "conv_" + "0" * 32})) == (404, "not_found")
            assert post(served, act, {}, X_Conv_Id="../../etc").status_code == 404
        for title in (5, [], "", "a" * 300, "a\x00b"):
            assert post(served, "save", {"conversation_id": "the one", "title": title}).status_code == 400
        assert stats(served)["data"] == []
        saved = post(served, "save", {"conversation_id": "the one"}).raise_for_status().json()
        assert code_of(post(served, "load", {"conversation_id": "the one", "model": "a b"})) == (404, "model_not_found")
        gone = httpx.delete(f"{served.url}/v1/conv_kv/the%20one", timeout=60).raise_for_status().json()
        assert gone["deleted"] and 0 < gone["freed_bytes"] <= saved["bytes"]
        assert code_of(httpx.delete(f"{served.url}/v1/conv_kv/the%20one", timeout=60)) == (404, "not_found")
        assert stats(served)["data"] == [] and stats(served)["bytes"] == 0
        assert talk(served, begun("one"), "")[1] > 0, "what is in memory stays"


def test_a_broken_file_and_another_model_are_told(serve: Callable[..., ServedDaemon], tmp_path: Path) -> None:
    messages = begun("one")
    with serve() as served:
        served.wait_ready()
        talk(served, messages, "And then?")
        saved = post(served, "save", {"conversation_id": "the one"}).raise_for_status().json()
        assert served.terminate() == 0
    state, block = tmp_path / "state0", 256
    last = next(path for path in (state / "prefixes").glob(f"v1/*/*/*-{block}-{2 * block}.kv"))
    raw = bytearray(last.read_bytes())
    raw[-7] ^= 1
    last.write_bytes(raw)
    with ServedDaemon(state, served.arguments) as served:
        served.wait_ready()
        loaded = post(served, "load", {"conversation_id": "the one"}).raise_for_status().json()
        assert (loaded["warm_tokens"], loaded["complete"]) == (block, False) and loaded["lost_files"] >= 1
        assert dropped(served, state)["corrupt"] == 1
        prompt, cached = talk(served, messages, "")
        assert cached == block < prompt, "and its answer is computed"
        assert served.terminate() == 0
    other = build(tmp_path / "other", "dense", seed=8)
    with ServedDaemon(state, ["--model", str(other)]) as served:
        assert code_of(post(served, "load", {"conversation_id": "the one"})) == (409, "other_model")
        (kept,) = stats(served)["data"]
        assert kept["model"] == saved["model"]
        assert stats(served, Accept="*/*") == {**stats(served), "data": []}, "nothing is listed for everybody"


def test_without_a_disk_nothing_can_be_saved(serve: Callable[..., ServedDaemon]) -> None:
    with serve("--ssd-cache-bytes", "0") as served:
        for act in ("save", "load"):
            assert code_of(post(served, act, {"conversation_id": "the one"})) == (409, "ssd_cache_off")
        assert stats(served) == {"object": "list", "enabled": False, "data": []}


def cache(state: Path, *words: str) -> dict[str, Any]:
    """`mlxd cache` beside the daemon of a state directory."""
    command = [*MLXD, "cache", *words, "--json", "--state-dir", str(state)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), timeout=240)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_conversation_moves_to_another_daemon_in_a_file(serve: Callable[..., ServedDaemon], tmp_path: Path) -> None:
    """Exported beside one that runs, imported beside another that runs: it goes on there as if it had begun there."""
    messages, file = begun("one"), tmp_path / "one.tar"
    with serve() as served:
        served.wait_ready()
        talk(served, messages, "And then?")
        saved = post(served, "save", {"conversation_id": "the one", "title": "Rules"}).raise_for_status().json()
        told = cache(tmp_path / "state0", "export", str(file), "--session", "the one")
        assert told["tokens"] == saved["tokens"] and told["conversations"] == 1
    with serve() as served:
        served.wait_ready()
        told = cache(tmp_path / "state1", "import", str(file))
        assert set(told["files"]) == {"taken"} and told["conversations"] == {"taken": 1}
        assert not list((tmp_path / "state1").rglob("*.tar"))
        loaded = post(served, "load", {"conversation_id": "the one"}).raise_for_status().json()
        assert loaded["complete"] and loaded["title"] == "Rules"
        prompt, cached = talk(served, messages, "")
        assert cached >= 0.97 * prompt
