"""The demo model thinks first and then keeps to a format or calls what it must, through the whole path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.e2e.daemon import ServedDaemon

ASKED: dict[str, Any] = {"model": "mlxd-demo", "temperature": 0, "max_tokens": 400}
SUM: Any = [{"role": "user", "content": "What is 12 + 7?"}]
SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 99}, "sure": {"type": "boolean"}},
    "required": ["sum", "sure"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA, "strict": True}}
TOOL: Any = {"type": "function", "function": {"name": "note_sum", "parameters": SCHEMA, "strict": True}}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    with ServedDaemon(tmp_path_factory.mktemp("demo") / "state", ["--demo"]) as daemon:
        daemon.wait_ready()
        with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
            yield client


def keys(text: str) -> set[str]:
    return set(json.loads(text))


def test_the_thought_is_free_and_the_answer_is_not(client: openai.OpenAI) -> None:
    free = client.chat.completions.create(messages=SUM, **ASKED).choices[0].message.model_dump()
    bound = client.chat.completions.create(messages=SUM, response_format=FORMAT, **ASKED).choices[0]
    message = bound.message.model_dump()
    assert bound.finish_reason == "stop"
    assert message["reasoning_content"] and message["reasoning_content"] == free["reasoning_content"]
    assert keys(message["content"]) == {"sum", "sure"}


def test_a_thought_that_is_cut_is_followed_by_the_format(client: openai.OpenAI) -> None:
    for extra in ({"thinking_budget": 4}, {"enable_thinking": False}):
        reply = client.chat.completions.create(messages=SUM, response_format=FORMAT, extra_body=extra, **ASKED)
        assert keys(reply.choices[0].message.content or "") == {"sum", "sure"}
        assert reply.choices[0].finish_reason == "stop"


def test_a_call_is_forced_behind_the_thought(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(
        messages=SUM, tools=[TOOL], tool_choice="required", parallel_tool_calls=False, **ASKED
    ).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function" and keys(call.function.arguments) == {"sum", "sure"}


def test_streamed_equals_folded(client: openai.OpenAI) -> None:
    folded = (
        client.chat.completions.create(messages=SUM, response_format=FORMAT, **ASKED).choices[0].message.model_dump()
    )
    deltas = [
        choice.delta.model_dump()
        for chunk in client.chat.completions.create(messages=SUM, response_format=FORMAT, stream=True, **ASKED)
        for choice in chunk.choices
    ]
    for name in ("content", "reasoning_content"):
        assert "".join(delta.get(name) or "" for delta in deltas) == folded[name]
