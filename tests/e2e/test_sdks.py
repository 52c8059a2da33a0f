"""Structured answers and calls as the libraries read them that agents are made with: openai, litellm, langchain.

The model has random weights, so whatever is right here is right because it could not be otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from enum import StrEnum
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from tests.e2e.daemon import ServedDaemon

MESSAGES: Any = [{"role": "user", "content": "Tell me of a trip."}]
ASKED: dict[str, Any] = {"model": "tiny", "temperature": 1, "seed": 3, "max_tokens": 1500}


class Means(StrEnum):
    TRAIN = "train"
    BOAT = "boat"


class Stop(BaseModel):
    place: str = Field(min_length=1, max_length=12)
    nights: int = Field(ge=0, le=30)


class Trip(BaseModel):
    """A journey."""

    start: date
    means: Means
    stops: list[Stop] = Field(max_length=3)
    note: str | None = Field(max_length=10)


@pytest.fixture(scope="module", autouse=True)
def no_network(daemon: ServedDaemon) -> Iterator[None]:
    """Neither library may look anything up elsewhere while it is imported or used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        patch.setenv("LITELLM_TELEMETRY", "False")
        patch.setenv("LANGCHAIN_TRACING_V2", "false")
        patch.setenv("OPENAI_API_KEY", "any")
        yield


# --- openai -----------------------------------------------------------------------------------------------------


def test_parse_gives_the_model_that_was_asked_for(client: openai.OpenAI) -> None:
    for parse in (client.chat.completions.parse, client.beta.chat.completions.parse):
        choice = parse(messages=MESSAGES, response_format=Trip, **ASKED).choices[0]
        assert choice.finish_reason == "stop"
        assert isinstance(choice.message.parsed, Trip)


def test_the_streaming_helper_gives_the_same_model(client: openai.OpenAI) -> None:
    folded = client.chat.completions.parse(messages=MESSAGES, response_format=Trip, **ASKED).choices[0].message
    with client.chat.completions.stream(messages=MESSAGES, response_format=Trip, **ASKED) as stream:
        snapshots = [event.parsed for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion().choices[0].message
    assert final.parsed == folded.parsed
    assert final.content == folded.content
    assert any(snapshots)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "Trip"}}])
def test_a_forced_call_is_parsed(client: openai.OpenAI, choice: Any) -> None:
    asked = {**ASKED, "tools": [openai.pydantic_function_tool(Trip)], "tool_choice": choice, "messages": MESSAGES}
    folded = client.chat.completions.parse(**asked, parallel_tool_calls=False).choices[0]
    with client.chat.completions.stream(**asked, parallel_tool_calls=False) as stream:
        arguments = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        streamed = stream.get_final_completion().choices[0]
    for one in (folded, streamed):
        assert one.finish_reason == "tool_calls"
        (call,) = one.message.tool_calls or ()
        assert isinstance(call.function.parsed_arguments, Trip)
    assert arguments
    assert not folded.message.content


def test_one_of_the_allowed_tools_is_called(client: openai.OpenAI) -> None:
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
        for name in ("left", "right", "up")
    ]
    allowed = [{"type": "function", "function": {"name": name}} for name in ("left", "right")]
    choice: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": allowed}}
    for seed in range(4):
        asked: Any = {**ASKED, "seed": seed, "tools": tools, "tool_choice": choice, "parallel_tool_calls": False}
        message = client.chat.completions.create(messages=MESSAGES, **asked).choices[0].message
        assert {call.function.name for call in message.tool_calls or ()} <= {"left", "right"}  # type: ignore[union-attr]


def test_extra_body_takes_the_spellings_of_other_servers(client: openai.OpenAI) -> None:
    def content(**extra: Any) -> str:
        reply = client.chat.completions.create(messages=MESSAGES, **ASKED, extra_body=extra)
        return reply.choices[0].message.content or ""

    assert content(guided_choice=["yes", "no"]) in ("yes", "no")
    assert content(structured_outputs={"choice": ["up", "down"]}) in ("up", "down")
    assert content(guided_regex=r"[a-f]{3}-\d{2}")[3] == "-"
    assert Trip.model_validate_json(content(guided_json=Trip.model_json_schema()))
    assert content(guided_json=json.dumps({"const": "a/b"})) == '"a/b"'


def test_several_answers_are_each_valid(client: openai.OpenAI) -> None:
    choices = client.chat.completions.parse(messages=MESSAGES, response_format=Trip, n=3, **ASKED).choices
    assert len({choice.message.content for choice in choices}) == 3
    assert all(isinstance(choice.message.parsed, Trip) for choice in choices)


def test_a_bomb_is_a_bad_request(client: openai.OpenAI) -> None:
    schema = {"allOf": [{"type": "string", "pattern": f".*a.{{{count}}}"} for count in range(10, 30)]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "bomb", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(messages=MESSAGES, response_format=form, **ASKED)
    assert refused.value.param == "response_format.json_schema.schema"


# --- litellm ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # theirs
def test_litellm_reads_a_format_and_a_forced_call(daemon: ServedDaemon) -> None:
    import litellm

    asked: Any = {**ASKED, "model": "openai/tiny", "api_base": f"{daemon.url}/v1", "api_key": "any"}
    message = litellm.completion(messages=MESSAGES, response_format=Trip, **asked).choices[0].message
    assert Trip.model_validate_json(message.content)
    tools: Any = [openai.pydantic_function_tool(Trip)]
    choice = litellm.completion(messages=MESSAGES, tools=tools, tool_choice="required", **asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert all(Trip.model_validate_json(call.function.arguments) for call in choice.message.tool_calls)
    chunks = list(litellm.completion(messages=MESSAGES, tools=tools, tool_choice="required", stream=True, **asked))
    built: Any = litellm.stream_chunk_builder(chunks)
    calls = [(call.function.name, call.function.arguments) for call in built.choices[0].message.tool_calls]
    assert calls == [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]


# --- langchain --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_gives_the_model_that_was_asked_for(daemon: ServedDaemon, method: Any) -> None:
    from langchain_openai import ChatOpenAI

    chat: Any = ChatOpenAI(base_url=f"{daemon.url}/v1", api_key="any", **ASKED)  # type: ignore[arg-type]
    assert isinstance(chat.with_structured_output(Trip, method=method).invoke("Tell me of a trip."), Trip)


@pytest.mark.filterwarnings("ignore")  # theirs
def test_langchain_binds_tools(daemon: ServedDaemon) -> None:
    from langchain_openai import ChatOpenAI

    chat: Any = ChatOpenAI(base_url=f"{daemon.url}/v1", api_key="any", **ASKED)  # type: ignore[arg-type]
    for choice in ("any", "Trip"):
        bound = chat.bind_tools([Trip], tool_choice=choice)
        folded, streamed = bound.invoke("Tell me of a trip."), None
        for chunk in bound.stream("Tell me of a trip."):
            streamed = chunk if streamed is None else streamed + chunk
        assert [call["name"] for call in folded.tool_calls] == ["Trip"] * len(folded.tool_calls)
        assert folded.tool_calls
        assert streamed is not None
        assert [call["args"] for call in streamed.tool_calls] == [call["args"] for call in folded.tool_calls]
        assert not folded.invalid_tool_calls
