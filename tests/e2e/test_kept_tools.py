"""A client that compacts its history sends it without tools: on request they stay in the prompt, and none is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.e2e.daemon import ServedDaemon
from tests.e2e.test_demo_tools import ASKED, QUESTION, WEATHER

AGAIN = {"role": "user", "content": "What is the weather in Bergen?"}
HEADER = "x-mlxd-volatile"


@pytest.fixture
def demo(serve: Callable[..., ServedDaemon]) -> ServedDaemon:
    daemon = serve("--demo", model=None)
    daemon.wait_ready()
    return daemon


def test_kept_tools_keep_the_prompt_warm_and_are_not_called(demo: ServedDaemon) -> None:
    def ask(messages: list[dict[str, Any]], tools: list[Any], wish: str) -> tuple[dict[str, Any], httpx.Headers, int]:
        headers = {HEADER: wish} if wish else {}
        body = {**ASKED, "messages": messages, "tools": tools}
        answer = httpx.post(f"{demo.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        computed = told["usage"]["prompt_tokens"] - told["usage"]["prompt_tokens_details"]["cached_tokens"]
        return told["choices"][0]["message"], answer.headers, computed

    call, _, _ = ask([QUESTION], [WEATHER], "")
    result = {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": "17 degrees, windy"}
    said, _, _ = ask([QUESTION, call, result], [WEATHER], "")
    history = [QUESTION, call, result, said, AGAIN]

    kept, headers, few = ask(history, [], "bind+keep:tools")
    assert headers[HEADER] == "bind+keep:tools; retained=1; tools=1"
    assert "tool_calls" not in kept and "tool_call" not in (kept.get("content") or "")
    free, _, warm = ask(history, [WEATHER], "")
    assert free["tool_calls"], "the model would have called"
    assert warm == 1, "it had read the same prompt"
    _, headers, many = ask(history, [], "bind")
    assert headers[HEADER] == "bind" and many > few

    second, headers, more = ask([*history, kept, AGAIN], [], "bind+keep:tools")
    assert "tools=1" in headers[HEADER] and more < many, "and so it goes on"
    assert "tool_calls" not in second
    assert (
        httpx.get(f"{demo.url}/api/cache/stats", headers=demo.admin, timeout=60).json()["witness"]["content_lost"] == 0
    )
