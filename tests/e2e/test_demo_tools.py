"""The demo model calls a tool and answers from its result, through the whole path."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.e2e.daemon import ServedDaemon

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Get the weather of a city", "parameters": SCHEMA},
}
QUESTION = {"role": "user", "content": "What is the weather in Oslo?"}
ASKED: dict[str, Any] = {"model": "mlxd-demo", "temperature": 0, "max_tokens": 150, "tools": [WEATHER]}


@pytest.fixture
def client(serve: Callable[..., ServedDaemon]) -> Any:
    daemon = serve("--demo", model=None)
    daemon.wait_ready()
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


def called(message: dict[str, Any]) -> list[tuple[str, Any]]:
    functions = [call["function"] for call in message["tool_calls"]]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


def test_the_weather_is_asked_for_and_told(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(**ASKED, messages=[QUESTION])
    message = reply.choices[0].message.model_dump(exclude_none=True)
    assert reply.choices[0].finish_reason == "tool_calls"
    assert called(message) == [("get_weather", {"city": "Oslo"})]
    assert "content" not in message and "tool_call" not in message.get("reasoning_content", "")
    with client.chat.completions.stream(**ASKED, messages=[QUESTION]) as stream:
        again = stream.get_final_completion().choices[0]
    assert again.finish_reason == "tool_calls"
    assert called(again.message.model_dump()) == called(message)
    assert not again.message.content

    (call,) = message["tool_calls"]
    assert call["id"].isalnum()
    result = {"role": "tool", "tool_call_id": call["id"], "content": "17 degrees, windy"}
    answer = client.chat.completions.create(**ASKED, messages=[QUESTION, message, result]).choices[0]
    assert answer.finish_reason == "stop" and not answer.message.tool_calls
    assert "17 degrees, windy" in (answer.message.content or "")


def test_without_leave_to_call_nothing_is_called(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**ASKED, tool_choice="none", messages=[QUESTION]).choices[0]
    assert choice.finish_reason != "tool_calls" and choice.message.tool_calls is None
