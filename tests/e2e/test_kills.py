"""A daemon is killed right behind the end of an answer, again and again: what it had finished is found."""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.e2e.daemon import ServedDaemon
from tests.e2e.test_restart import SYSTEM

KILLS = int(os.environ.get("MLXD_TEST_KILLS", "5"))
BLOCK_TOKENS = 256


@dataclass(frozen=True)
class Turn:
    """What a turn was told of itself: tokens of its prompt, of them cached, and with its answer."""

    prompt: int
    cached: int
    total: int


def killed_after_the_end(served: ServedDaemon, messages: list[dict[str, str]], max_tokens: int, pause_s: float) -> Turn:
    """Streams an answer and kills the daemon so long after its last frame; the answer and a next question are put
    behind `messages`.
    """
    body = {"messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    said, usage = "", {}
    with httpx.stream(
        "POST",
        f"{served.url}/v1/chat/completions",
        json={**body, "stream_options": {"include_usage": True}},
        timeout=60,
    ) as response:
        for line in response.iter_lines():
            if line == "data: [DONE]":
                break
            if line.startswith("data: "):
                chunk = json.loads(line.removeprefix("data: "))
                usage = chunk.get("usage") or usage
                said += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
        time.sleep(pause_s)
        served.process.kill()
        served.process.wait(60)
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": f"Go on: {len(messages)}."}]
    return Turn(usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], usage["total_tokens"])


def up_to_a_grid_line(turns: list[Turn], chance: random.Random) -> int:
    """The length of an answer whose last block is complete with its last tokens: nothing is written later than that."""
    if len(turns) < 2:
        return 90
    expected = turns[-1].total + turns[-1].prompt - turns[-2].total
    return BLOCK_TOKENS - expected % BLOCK_TOKENS + chance.randrange(1, 6)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_whole_block_of_a_finished_turn_outlives_kill_9(tmp_path: Path, tiny_model: Path) -> None:
    """The first turn is short enough to pass for a one-shot, and is found as well."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hello."}]
    chance, turns = random.Random(3), list[Turn]()
    for _ in range(KILLS + 1):
        with ServedDaemon(tmp_path / "state", ["--model", str(tiny_model)]) as served:
            served.wait_ready()
            told = up_to_a_grid_line(turns, chance)
            turns.append(killed_after_the_end(served, messages, told, chance.uniform(0, 0.05)))
    again = [before.total - 1 - after.cached for before, after in itertools.pairwise(turns)]
    print(f"\ncomputed again after each of {KILLS} kills: {again}")  # the last token drawn is never read
    for before, after in itertools.pairwise(turns):
        assert after.cached >= (before.total - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    assert max(again) < BLOCK_TOKENS
    assert KILLS < 3 or sum(tokens < 8 for tokens in again) > len(again) / 2, "few ended where a block does"
