"""Conversations that stay on the disk until they are deleted: through a real daemon, past eviction and restarts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.daemon import ServedDaemon
from tests.e2e.test_restart import SYSTEM

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


def stats(served: ServedDaemon) -> dict[str, Any]:
    told: dict[str, Any] = httpx.get(f"{served.url}/v1/conv_kv/stats", timeout=60).raise_for_status().json()
    return told


def dropped(served: ServedDaemon, state: Path) -> dict[str, int]:
    token = (state / "admin.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    told: dict[str, int] = httpx.get(f"{served.url}/api/cache/stats", headers=headers).json()["disk"]["dropped"]
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
