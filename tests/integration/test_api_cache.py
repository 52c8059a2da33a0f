"""The prefix cache as clients and the admin see it: headers, bills, figures, answers and orders, with a real engine.

A tiny random model answers; what it says does not matter, what it computed does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.conversation.preparer import Preparer
from inference.engine.loader import MlxLoader
from inference.engine.settings import CacheSettings, EngineSettings
from inference.engine.text import load_text
from inference.ports import ModelLoader
from inference.scheduler import Scheduler
from mlxd.api import policy
from mlxd.runtime import Runtime, ServedModel
from tests import tiny_models
from tests.integration.api_scripted import Answer, browser, get, post
from tests.integration.installed import ADMIN, TOKEN, installed

CHAT = "/v1/chat/completions"
SYSTEM = {"role": "system", "content": "The model reads what the user said and the answer is written. " * 12}
FIRST = {"role": "user", "content": "Say what line 12 of src/main.py holds. " * 8}

TURNS = (SYSTEM, FIRST, {"role": "assistant", "content": "It is empty."}, {"role": "user", "content": "And 13?"})
"""More than a title or a check would be, so that its session has it."""


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build(tmp_path_factory.mktemp("cache-api"), "dense")


def serve(path: Path, cache: CacheSettings) -> Runtime:
    def loader() -> ModelLoader:
        return MlxLoader(EngineSettings(cache=cache))

    return Runtime((ServedModel("tiny", path, 1),), Scheduler(loader), Preparer(), load_text)


@pytest.fixture
def running(model_path: Path, request: pytest.FixtureRequest) -> Iterator[Runtime]:
    made = serve(model_path, getattr(request, "param", CacheSettings(memory_bytes=1 << 26)))
    made.scheduler.start()
    made.scheduler.load(made.models[0].ref).result(60)
    with installed(made):
        yield made


def body(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": list(messages), "max_tokens": 4, "temperature": 0, **fields}


async def ask(*messages: dict[str, Any], **fields: Any) -> Answer:
    answer = await post(CHAT, body(*messages, **fields))
    assert answer.status == 200, answer.body
    return answer


async def explained(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = await post("/api/cache/explain", body(*messages, **fields), headers=ADMIN)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


async def stats() -> dict[str, Any]:
    found: dict[str, Any] = (await get("/api/cache/stats", headers=ADMIN)).json()
    return found


def reply(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = answer.json()["choices"][0]["message"]
    return {"role": "assistant", "content": message["content"]}


async def test_a_second_turn_says_in_its_headers_and_its_bill_what_it_did_not_compute(running: Runtime) -> None:
    first = await ask(SYSTEM, FIRST, session_id="s1")
    assert (first.headers["x-conv-kv"], first.headers["x-mlxd-verdict"]) == ("fresh", "first_seen")
    second = await ask(SYSTEM, FIRST, reply(first), {"role": "user", "content": "And 13?"}, session_id="s1")
    usage = second.json()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert 0.8 * usage["prompt_tokens"] < cached < usage["prompt_tokens"]
    headers = second.headers
    assert (headers["x-conv-id"], headers["x-conv-kv"]) == ("s1", "hit")
    assert int(headers["x-conv-cached-tokens"]) == cached
    assert int(headers["x-conv-cached-tokens"]) + int(headers["x-conv-processing-tokens"]) == usage["prompt_tokens"]
    assert second.json()["metadata"] == {"conversation_id": "s1"}


async def test_who_names_no_conversation_gets_a_fresh_name_to_come_back_with(running: Runtime) -> None:
    one, other = await ask(FIRST), await ask(FIRST)
    names = {answer.headers["x-conv-id"] for answer in (one, other)}
    assert len(names) == 2 and names == {answer.json()["metadata"]["conversation_id"] for answer in (one, other)}
    again = await post(CHAT, body(FIRST, stream=True), headers={"X-Conversation-Id": one.headers["x-conv-id"]})
    assert again.headers["x-conv-id"] == one.headers["x-conv-id"]
    assert (await stats())["sessions"] == 2


async def test_a_conversation_that_nobody_names_keeps_the_id_it_was_told_first(running: Runtime) -> None:
    first = await ask(SYSTEM, FIRST)
    told = first.headers["x-conv-id"]
    more = (SYSTEM, FIRST, reply(first), {"role": "user", "content": "And 13?"})
    second = await ask(*more)
    assert (second.headers["x-conv-id"], second.json()["metadata"]) == (told, {"conversation_id": told})
    assert second.headers["x-mlxd-verdict"] == "extended"
    edited = await post(CHAT, body(*more[:3], {"role": "user", "content": "And 14?"}), headers={"X-Conv-Id": told})
    where = edited.headers["x-mlxd-verdict"]
    assert where.startswith("diverged(messages[3].content, token ") and edited.headers["x-conv-id"] == told
    assert (await stats())["sessions"] == 1
    named = await ask(*more, session_id="mine")
    unnamed = await ask(*more, reply(named), {"role": "user", "content": "And 15?"})
    again = await ask(
        *more, reply(named), {"role": "user", "content": "x"}, conversation_id=unnamed.headers["x-conv-id"]
    )
    assert again.headers["x-mlxd-verdict"].startswith("diverged(messages[5].content, token ")
    assert (await stats())["sessions"] == 2


async def test_a_request_of_several_answers_counts_once(running: Runtime) -> None:
    await ask(SYSTEM, FIRST, n=3, temperature=1)
    counted = (await stats())["counters"]
    assert (counted["requests"], counted["verdicts"]["first_seen"]) == (1, 1)
    assert sum(counted["verdicts"].values()) == 1


async def test_explaining_tells_what_the_request_then_gets_and_changes_nothing(running: Runtime) -> None:
    await ask(*TURNS, session_id="s1")
    wanted = (SYSTEM, {"role": "user", "content": "Something else. " * 9})
    running.witness.settle()  # it counts the first prompt, which it looks through on a thread of its own
    before = await stats()
    assert before["counters"]["requests"] == 1
    told = await explained(*wanted, session_id="s1")
    assert await explained(*wanted, session_id="s1") == told
    assert await stats() == before
    then = await ask(*wanted, session_id="s1")
    usage = then.json()["usage"]
    assert (told["prompt_tokens"], told["cached_tokens"]) == (
        usage["prompt_tokens"],
        usage["prompt_tokens_details"]["cached_tokens"],
    )
    assert told["prefill_tokens"] == usage["prompt_tokens"] - told["cached_tokens"] > 0
    assert (told["kv"], told["verdict"]) == (then.headers["x-conv-kv"], then.headers["x-mlxd-verdict"])
    assert told["verdict"] == f"diverged(messages[1].content, token {told['matched_tokens']})"


async def test_explaining_names_the_message_the_field_and_both_texts(running: Runtime) -> None:
    await ask(SYSTEM, FIRST)
    edited = {"role": "user", "content": str(FIRST["content"]).replace("line 12 of", "line 17 of", 1)}
    told = await explained(SYSTEM, edited)
    parted = told["divergence"]
    assert (parted["message"], parted["path"], parted["token"]) == (1, "messages[1].content", told["matched_tokens"])
    sent, stored = (parted["before"] + parted[side] for side in ("sent", "stored"))
    assert "user\nSay what line 17 of" in sent and "user\nSay what line 12 of" in stored
    assert (told["messages"], told["stable_prefix_msg_count"]) == (2, 1)
    assert (await explained(SYSTEM, FIRST))["divergence"] is None
    new = await explained({"role": "user", "content": "x"}, cache_salt="mine")
    assert (new["cached_tokens"], new["divergence"], new["kv"]) == (0, None, "fresh")


async def test_a_completion_can_be_explained_too(running: Runtime) -> None:
    text = "def main(argument: str) -> int: " * 20
    asked = {"prompt": text, "max_tokens": 2}
    assert (await post("/v1/completions", asked)).status == 200
    told = (await post("/api/cache/explain", asked, headers=ADMIN)).json()
    assert told["verdict"] == "exact" and told["prefill_tokens"] == 1
    assert told["messages"] == told["stable_prefix_msg_count"] == 0


async def test_requests_of_another_salt_share_nothing(running: Runtime) -> None:
    await ask(SYSTEM, FIRST, cache_salt="mine")
    for salt, cached in (("yours", 0), (None, 0), ("mine", 1)):
        usage = (await ask(SYSTEM, FIRST, cache_salt=salt)).json()["usage"]
        assert min(1, usage["prompt_tokens_details"]["cached_tokens"]) == cached


async def test_what_is_cleared_is_told_and_gone_and_the_next_miss_says_so(running: Runtime) -> None:
    await ask(*TURNS, session_id="s1")
    await ask(SYSTEM, {"role": "user", "content": "Another story, told at length. " * 12}, *TURNS[2:], session_id="s2")
    held = (await stats())["totals"]["held_bytes"]
    one = (await post("/api/cache/clear", {"session": "s2"}, headers=ADMIN)).json()
    assert 0 < one["cleared"]["nbytes"] < held and one["held_bytes"] == held - one["cleared"]["nbytes"]
    assert (await explained(*TURNS))["verdict"] == "exact"
    rest = (await post("/api/cache/clear", {"model": "tiny"}, headers=ADMIN)).json()
    assert rest["held_bytes"] == 0 and rest["cleared"]["blocks"] > 0
    assert (await explained(*TURNS))["verdict"] == "cleared"
    assert (await ask(SYSTEM, FIRST)).json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert (await post("/api/cache/clear", {"model": "other"}, headers=ADMIN)).json()["cleared"]["blocks"] == 0
    assert (await post("/api/cache/clear", {"all": True}, headers=ADMIN)).json()["cleared"]["blocks"] > 0


@pytest.mark.parametrize("wanted", [{}, {"all": False}, {"model": "tiny", "all": True}, {"session": "s", "model": "m"}])
async def test_nothing_is_cleared_by_accident(running: Runtime, wanted: dict[str, Any]) -> None:
    await ask(SYSTEM, FIRST)
    assert (await post("/api/cache/clear", wanted, headers=ADMIN)).status == 400
    assert (await explained(SYSTEM, FIRST))["verdict"] == "exact"


async def test_the_figures_add_up(running: Runtime) -> None:
    for _ in range(2):
        await ask(SYSTEM, FIRST)
    found = await stats()
    totals, counted = found["totals"], found["counters"]
    assert totals["held_bytes"] == found["block_bytes"] + found["side_bytes"] + found["snapshot_bytes"] > 0
    assert totals["hit_ratio"] == pytest.approx(counted["cached_tokens"] / counted["prompt_tokens"])
    assert (counted["requests"], counted["verdicts"]["exact"]) == (2, 1)
    shown = (await get("/api/status", headers=ADMIN)).json()["scheduler"]["store"]
    assert shown.keys() == totals.keys()
    assert TOKEN not in str(found) and "src/main.py" not in str(found)
    page = (await get("/", headers=await browser())).body.decode()
    assert f"{100 * totals['hit_ratio']:.0f} %" in page and f"of {counted['prompt_tokens']} prompt tokens" in page


async def test_counters_that_stay_at_0_are_shown_and_a_fault_catches_the_eye(running: Runtime) -> None:
    for at in range(3):
        await ask(SYSTEM, FIRST, {"role": "user", "content": f"And {at}?"})
    running.witness.settle()
    found = await stats()
    assert found["witness"]["content_checked"] == 1  # the first, and then one in many
    zeros = ("content_lost", "exact_key_rejected_by_model_lcp")
    assert [found["witness"][name] for name in zeros] == [0, 0]
    assert [found["totals"][name] for name in ("offset_mismatch", "shared_kv_mutated")] == [0, 0]
    assert "<dd>0<small>of 1 prompts checked in full" in (await get("/", headers=await browser())).body.decode()
    running.witness._counts["content_lost"] += 2
    assert (await get("/api/status", headers=ADMIN)).json()["witness"]["content_lost"] == 2
    assert "2 texts of requests that were not read" in (await get("/", headers=await browser())).body.decode()


async def test_a_model_that_is_not_in_memory_is_not_loaded_to_explain(running: Runtime) -> None:
    await ask(SYSTEM, FIRST)
    assert await asyncio.wrap_future(running.scheduler.unload("tiny"))
    refused = await post("/api/cache/explain", body(SYSTEM, FIRST), headers=ADMIN)
    assert (refused.status, refused.refusal["code"]) == (503, "model_loading")
    assert running.scheduler.snapshot().models == ()
    assert (await ask(SYSTEM, FIRST)).headers["x-mlxd-verdict"] == "exact"  # what it computed survived


@pytest.mark.parametrize("running", [CacheSettings(memory_bytes=0)], indirect=True)
async def test_a_server_that_keeps_nothing_says_so(running: Runtime) -> None:
    for _ in range(2):
        answer = await ask(SYSTEM, FIRST)
        assert (answer.headers["x-conv-kv"], answer.headers["x-conv-cached-tokens"]) == ("disabled", "0")
    found = await stats()
    assert found.keys() == {"enabled", "witness", "prewarmed"} and found["enabled"] is False
    assert (await post("/api/cache/clear", {"all": True}, headers=ADMIN)).json() == {"enabled": False}
    assert (await explained(SYSTEM, FIRST))["kv"] == "disabled"


@pytest.mark.parametrize("path", ["stats", "explain", "clear"])
async def test_the_admin_alone_may_look(path: str) -> None:
    policy.install(policy.Policy(admin_digest=policy.digest(TOKEN)))
    for headers in ({}, {"authorization": "Bearer sk-any"}):
        answer = await (get if path == "stats" else lambda at, **rest: post(at, {}, **rest))(
            f"/api/cache/{path}", headers=headers
        )
        assert answer.status == 401, answer.body
    policy.install(policy.Policy())


async def test_the_admin_sees_what_became_of_echoes(running: Runtime) -> None:
    before = (await get("/api/healing", headers=ADMIN)).json()
    assert set(before) == {"turns", "bytes", "outcomes", "unspliced", "disk"}
    first = (await post(CHAT, body(FIRST, max_tokens=8))).json()
    said = first["choices"][0]["message"]
    more = {"role": "user", "content": "And 13?"}
    again = (await post(CHAT, body(FIRST, said, more))).json()
    edited = {"role": "assistant", "content": said["content"] + "!"}
    await post(CHAT, body(FIRST, edited, more))
    after = (await get("/api/healing", headers=ADMIN)).json()
    gained = {name: after["outcomes"][name] - before["outcomes"][name] for name in after["outcomes"]}
    assert gained == {"not_needed": 1, "healed": 0, "healed_normalised": 0, "refused_edited": 1, "not_found": 0}
    assert after["turns"] > before["turns"] and after["bytes"] > before["bytes"]
    known = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= known - 1
    assert (await get("/api/healing")).status == 401
