"""Chosen system prompts: computed before anybody asks, kept when others push, and never in anybody's way.

A hybrid computes the last of their tokens again: a state is kept before it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.engine.settings import CacheSettings
from mlxd.prewarm import Prewarmed, read_chosen
from mlxd.prewarmer import Prewarmer
from mlxd.runtime import Runtime
from mlxd.start_errors import InvalidSetting
from tests import tiny_models
from tests.integration.installed import installed
from tests.integration.test_api_cache import ask, serve, stats

SYSTEM = "You are an agent. " + " ".join(f"Rule {number} says do {number * number}." for number in range(40))
TOOL = {"type": "function", "function": {"name": "look", "description": SYSTEM, "parameters": {"type": "object"}}}


@pytest.fixture(scope="module", params=["dense", "hybrid"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model_path(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build(tmp_path_factory.mktemp("prewarm"), architecture)


@pytest.fixture
def running(model_path: Path, request: pytest.FixtureRequest) -> Iterator[Runtime]:
    made = serve(model_path, getattr(request, "param", CacheSettings(memory_bytes=1 << 26)))
    made.scheduler.start()
    made.scheduler.load(made.models[0].ref).result(60)
    with installed(made):
        yield made


async def prewarmed(running: Runtime, *texts: str, folder: Path) -> list[Prewarmed]:
    paths = []
    for number, text in enumerate(texts):
        path = folder / f"prompt{number}"
        path.write_text(text)
        paths.append(str(path))
    await Prewarmer(running, read_chosen(paths)).run()
    return running.prewarmed


async def cached_of(text: str, question: str) -> tuple[int, int]:
    answer = await ask({"role": "system", "content": text}, {"role": "user", "content": question})
    usage = answer.json()["usage"]
    return usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]


async def test_the_first_request_of_a_prompt_has_it_cached_to_the_token(running: Runtime, tmp_path: Path) -> None:
    (one,) = await prewarmed(running, SYSTEM, folder=tmp_path)
    assert (one.file, one.model, one.state, one.cached_tokens, one.pinned) == ("prompt0", "tiny", "done", 0, True)
    for question in ("What is rule 3?", "Say nothing."):
        cached, prompt = await cached_of(SYSTEM, question)
        assert cached >= one.tokens - 1 and prompt - cached < 40, "all but the question and what follows it"
    told = await stats()
    assert told["prewarmed"][0]["tokens"] == one.tokens
    assert told["pinned"][0]["nbytes"] > 0 and told["pinned"][0]["session"] == "prewarm 0"
    await Prewarmer(running, read_chosen([str(tmp_path / "prompt0")])).run()
    assert running.prewarmed[1].cached_tokens >= one.tokens - 1, "what is there is not computed again"


BEGUN = (
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "What is rule 3?"},
)
"""More than a title or a check would be, so that it is kept as a conversation."""
PRESSED = CacheSettings(memory_bytes=3 << 20, snapshot_memory_bytes=1 << 20)


@pytest.mark.parametrize("running", [PRESSED], indirect=True)
async def test_others_push_it_out_only_where_it_is_not_pinned(running: Runtime, tmp_path: Path) -> None:
    (one,) = await prewarmed(running, SYSTEM, folder=tmp_path)
    assert one.pinned
    await ask({"role": "system", "content": f"Another. {SYSTEM}"}, *BEGUN)
    for number in range(60):
        await ask({"role": "system", "content": f"{number} {SYSTEM}"}, *BEGUN)
        if (await stats())["totals"]["evictions"] > 9:
            break
    else:
        pytest.fail("there is no pressure")
    assert (await cached_of(SYSTEM, "What is rule 3?"))[0] >= one.tokens - 1
    assert (await cached_of(f"Another. {SYSTEM}", "Hello again?"))[0] < one.tokens, "it was pushed out"


@pytest.mark.parametrize("running", [CacheSettings(memory_bytes=1 << 19)], indirect=True)
async def test_what_would_take_more_than_its_part_is_not_pinned(running: Runtime, tmp_path: Path) -> None:
    (one,) = await prewarmed(running, f"{SYSTEM} {SYSTEM} {SYSTEM}", folder=tmp_path)
    assert one.state == "done" and not one.pinned and (await stats())["pinned"] == []


async def test_a_request_comes_first_and_both_are_served(running: Runtime, tmp_path: Path) -> None:
    long = " ".join([SYSTEM] * 4)
    warming = asyncio.create_task(prewarmed(running, long, folder=tmp_path))
    for number in range(4):
        await ask({"role": "user", "content": f"Hello {number}?"})
    (one,) = await asyncio.wait_for(warming, 60)
    assert one.state == "done"
    assert (await cached_of(long, "What is rule 3?"))[0] >= one.tokens - 1


async def test_who_needs_the_same_beginning_meanwhile_goes_on_from_what_is_there(
    running: Runtime, architecture: str, tmp_path: Path
) -> None:
    """A hybrid where a state was kept, which is every 2,048 tokens."""
    long = " ".join([SYSTEM] * 4)
    warming = asyncio.create_task(prewarmed(running, long, folder=tmp_path))
    while not warming.done() and not any(row.done_tokens >= 512 for row in running.scheduler.snapshot().rows):
        await asyncio.sleep(0.002)
    cached, _ = await cached_of(long, "What is rule 3?")
    assert cached >= 512 or architecture == "hybrid", "also where it was not computed to its end"
    (one,) = await asyncio.wait_for(warming, 60)
    assert one.state == "done"


async def test_a_request_in_a_file_brings_its_tools_and_its_beginning_alone(running: Runtime, tmp_path: Path) -> None:
    messages = [{"role": "developer", "content": SYSTEM}, {"role": "user", "content": "Not this."}]
    (one,) = await prewarmed(running, json.dumps({"messages": messages, "tools": [TOOL]}), folder=tmp_path)
    answer = await ask(messages[0], {"role": "user", "content": "But that."}, tools=[TOOL])
    assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] >= one.tokens - 1 > 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("absent", None),
        ("bytes", b"\xff\xfe"),
        ("empty", b" \n"),
        ("request.json", b"{"),
        ("other.json", b"[1]"),
        ("nothing.json", b'{"messages": [{"role": "user", "content": "Hi"}]}'),
    ],
)
def test_a_file_that_is_none_is_told_at_the_start(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidSetting, match=r"--prewarm .*\."):
        read_chosen([str(path)])


def test_a_text_that_looks_like_json_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "prompt"
    path.write_text('{"be": "brief"}')
    (chosen,) = read_chosen([str(path)])
    told: list[dict[str, Any]] = chosen.body["messages"]
    assert told[0] == {"role": "system", "content": '{"be": "brief"}'} and len(told) == 2
