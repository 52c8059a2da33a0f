"""A daemon is killed right behind the end of an answer, again and again: what it had finished is found."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.daemon import ServedDaemon
from tests.e2e.test_restart import SYSTEM

KILLS = int(os.environ.get("MLXD_TEST_KILLS", "5"))
BLOCK_TOKENS = 256


def killed_after_the_end(served: ServedDaemon, messages: list[dict[str, str]], pause_s: float) -> tuple[int, int]:
    """Streams an answer of a turn and kills the daemon so long after its last frame: cached tokens, and tokens in all.

    The answer and a next question are put behind `messages`.
    """
    body = {"messages": messages, "max_tokens": 90, "temperature": 0, "stream": True}
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
        served.process.wait(10)
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": f"Go on: {len(messages)}."}]
    return usage["prompt_tokens_details"]["cached_tokens"], usage["total_tokens"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_whole_block_of_a_finished_turn_outlives_kill_9(tmp_path: Path, tiny_model: Path) -> None:
    """The first turn is short enough to pass for a one-shot, and is found as well."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hello."}]
    chance, before = random.Random(3), 0
    for _ in range(KILLS):
        with ServedDaemon(tmp_path / "state", ["--model", str(tiny_model)]) as served:
            served.wait_ready()
            cached, total = killed_after_the_end(served, messages, chance.uniform(0, 0.05))
        assert cached >= (before - 1) // BLOCK_TOKENS * BLOCK_TOKENS, "the last token drawn is never read"
        before = total
