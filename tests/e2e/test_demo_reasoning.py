"""The demo model thinks before it answers a sum, and both arrive apart, through the whole path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.e2e.daemon import ServedDaemon

SUM: dict[str, Any] = {
    "model": "mlxd-demo",
    "messages": [{"role": "user", "content": "What is 12 + 7?"}],
    "temperature": 0,
    "max_tokens": 120,
}


def streamed(client: openai.OpenAI) -> tuple[str, str, dict[str, Any]]:
    """Reasoning, content and usage as a client adds them up."""
    deltas, usage = [], {}
    for chunk in client.chat.completions.create(**SUM, stream=True):
        deltas += [choice.delta.model_dump() for choice in chunk.choices]
        usage = chunk.usage.model_dump() if chunk.usage else usage
    reasoning, content = (
        "".join(delta.get(name) or "" for delta in deltas) for name in ("reasoning_content", "content")
    )
    return reasoning, content, usage


def folded(client: openai.OpenAI) -> tuple[str, str, dict[str, Any]]:
    reply = client.chat.completions.create(**SUM)
    assert reply.choices[0].finish_reason == "stop" and reply.usage
    message = reply.choices[0].message.model_dump()
    return message.get("reasoning_content") or "", message["content"], reply.usage.model_dump()


def test_a_sum_is_reasoned_and_answered(serve: Callable[..., ServedDaemon]) -> None:
    daemon = serve("--demo", model=None)
    daemon.wait_ready()
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        reasoning, content, usage = folded(client)
        again = streamed(client)
    assert reasoning and reasoning == reasoning.strip("\n")
    assert "12 + 7" in content
    assert "think>" not in reasoning + content
    spent = usage["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < spent < usage["completion_tokens"]
    assert again[:2] == (reasoning, content)
    assert again[2]["completion_tokens_details"]["reasoning_tokens"] == spent


MARKER_TOKENS = 4
"""The markers around a thought, with their line feeds, are counted as reasoning too."""


def asked(client: openai.OpenAI, **more: Any) -> tuple[str, str, int]:
    """Reasoning, content and reasoning tokens of an answer to the sum."""
    reply = client.chat.completions.create(**SUM, **more)
    assert reply.choices[0].finish_reason == "stop" and reply.usage and reply.usage.completion_tokens_details
    message = reply.choices[0].message.model_dump()
    spent = reply.usage.completion_tokens_details.reasoning_tokens
    return message.get("reasoning_content") or "", message["content"], spent or 0


def test_a_request_decides_how_much_is_thought(serve: Callable[..., ServedDaemon]) -> None:
    daemon = serve("--demo", model=None)
    daemon.wait_ready()
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        thought, content, spent = asked(client)
        for off in ({"reasoning_effort": "none"}, {"extra_body": {"thinking": {"type": "disabled"}}}):
            assert asked(client, **off)[::2] == ("", 0)
        limit = 4
        assert spent > limit + MARKER_TOKENS
        cut, answer, cut_spent = asked(client, extra_body={"thinking_budget": limit})
        assert 0 < len(cut) < len(thought) and thought.startswith(cut)
        assert "12 + 7" in answer and "think>" not in cut + answer
        assert limit < cut_spent <= limit + MARKER_TOKENS
        assert asked(client, extra_body={"thinking_budget": 1000}) == (thought, content, spent)
        assert asked(client, extra_body={"reasoning": {"exclude": True}}) == ("", content, spent)
        with pytest.raises(openai.BadRequestError, match="contradict"):
            asked(client, extra_body={"thinking": False, "enable_thinking": True})
        assert second_turn(client, answered=content) == "reasoning_stripped(template)"


def second_turn(client: openai.OpenAI, answered: str) -> str:
    """The verdict of a turn that echoes the first one's words, whose thought the template reads no more."""
    said = [{"role": "assistant", "content": answered}, {"role": "user", "content": "And 2 + 3?"}]
    turn = {**SUM, "messages": [*SUM["messages"], *said]}
    return str(client.chat.completions.with_raw_response.create(**turn).headers["x-mlxd-verdict"])
