"""What becomes of a request: the conversation with its paths, and the parameters with their layers."""

from __future__ import annotations

from typing import Any

import pytest

from inference.messages import Conversation, Message, Role, TextPart, Tool, ToolCall
from mlxd.api.convert import convert_chat
from mlxd.api.sampling import generation_params
from mlxd.api.schemas import ChatRequest, CompletionRequest
from mlxd.api.validate import validate


def converted(*messages: dict[str, Any], **fields: Any) -> Conversation:
    return convert_chat(validate(ChatRequest, {"messages": list(messages), **fields}))


def test_a_whole_agent_turn() -> None:
    conversation = converted(
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Read "}, {"type": "text", "text": "a.py"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "  Step 1.\n",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "read", "arguments": '{"p": "a.py" }'}}
            ],
            "refusal": None,
            "audio": None,
        },
        {"role": "tool", "tool_call_id": "c1", "content": "print(1)\n"},
        {"role": "assistant", "content": "\n\nDone. \n", "tool_calls": None},
        tools=[
            {
                "type": "function",
                "function": {"name": "read", "description": "Reads.", "parameters": {"type": "object"}},
            }
        ],
    )
    assert conversation.messages == (
        Message(Role.SYSTEM, (TextPart("Be brief.", "messages[0].content"),), path="messages[0]"),
        Message(
            Role.USER,
            (TextPart("Read ", "messages[1].content[0].text"), TextPart("a.py", "messages[1].content[1].text")),
            path="messages[1]",
        ),
        Message(
            Role.ASSISTANT,
            reasoning="  Step 1.\n",
            tool_calls=(ToolCall("c1", "read", '{"p": "a.py" }'),),
            path="messages[2]",
        ),
        Message(Role.TOOL, (TextPart("print(1)\n", "messages[3].content"),), tool_call_id="c1", path="messages[3]"),
        Message(Role.ASSISTANT, (TextPart("\n\nDone. \n", "messages[4].content"),), path="messages[4]"),
    )
    assert conversation.tools == (Tool("read", "Reads.", {"type": "object"}, path="tools[0].function"),)
    assert conversation.template_args == {} and not conversation.continue_final


def test_null_empty_and_absent_content_are_equal() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "assistant", "tool_calls": [call]} | content
        for content in ({}, {"content": None}, {"content": ""}, {"content": []})
    ]
    assert len({converted(turn).messages[0] for turn in turns}) == 1


def test_reasoning_under_either_name() -> None:
    for name in ("reasoning_content", "reasoning"):
        assert converted({"role": "assistant", "content": "x", name: " why "}).messages[0].reasoning == " why "
    assert converted({"role": "assistant", "content": "x", "reasoning": {"effort": 1}}).messages[0].reasoning == ""


def test_systems_stay_in_place_and_roles_apart() -> None:
    roles = ("user", "user", "system", "developer", "assistant", "assistant", "system")
    messages = converted(*({"role": role, "content": role} for role in roles)).messages
    assert [message.text for message in messages] == list(roles)
    assert [message.role for message in messages][2:4] == [Role.SYSTEM, Role.SYSTEM]


def test_legacy_calls() -> None:
    messages = converted(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    ).messages
    assert messages[0].tool_calls == (ToolCall("", "f", "{}"),)
    assert (messages[1].role, messages[1].name, messages[1].text) == (Role.TOOL, "f", "1")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [('{"', '{"'), ("", ""), (None, ""), ({"a": "é", "b": 50.0}, '{"a": "é", "b": 50.0}'), ([1], "[1]")],
)
def test_arguments_are_kept_as_they_are(sent: Any, kept: str) -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": sent}}
    assert converted({"role": "assistant", "tool_calls": [call]}).messages[0].tool_calls[0].arguments == kept


def test_tool_choice_none_takes_the_tools_away() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert len(converted({"role": "user", "content": "x"}, tools=tools).tools) == 1
    assert converted({"role": "user", "content": "x"}, tools=tools, tool_choice="none").tools == ()


def test_continuing_the_last_message() -> None:
    assert converted({"role": "assistant", "content": "Once"}, continue_final_message=True).continue_final


# --- parameters -------------------------------------------------------------------------------------------------


def params(configured: dict[str, Any] | None = None, of_model: dict[str, Any] | None = None, **fields: Any) -> Any:
    return generation_params(validate(CompletionRequest, {"prompt": "x", **fields}), configured or {}, of_model or {})


def test_layers_of_a_value() -> None:
    layers: dict[str, Any] = {"configured": {"temperature": 0.5}, "of_model": {"temperature": 0.7, "top_k": 20}}
    assert params(**layers, temperature=0.1).sampling.temperature == 0.1
    assert params(**layers, temperature=0).sampling.is_greedy
    assert params(**layers).sampling.temperature == 0.5
    assert params(**layers).sampling.top_k == 20
    assert params(**layers).sampling.top_p == 1.0
    neutral = params().sampling
    assert (neutral.temperature, neutral.repetition_penalty, neutral.top_k, neutral.min_p) == (1.0, 1.0, 0, 0.0)
    assert params().max_tokens is None


def test_minus_one_is_off() -> None:
    assert params(top_k=-1, of_model={"top_k": 20}).sampling.top_k == 0
    assert params(of_model={"top_k": -1}).sampling.top_k == 0


def test_a_models_own_file_is_not_trusted() -> None:
    junk = {"temperature": "hot", "top_p": 7, "top_k": True, "min_p": None, "repetition_penalty": 0, "seed": 3}
    assert params(of_model=junk) == params()


def test_a_model_that_does_not_sample_is_greedy_unless_asked() -> None:
    assert params(of_model={"do_sample": False, "temperature": 0.7}).sampling.is_greedy
    assert params(of_model={"do_sample": False}, temperature=0.3).sampling.temperature == 0.3


def test_the_seed_profile() -> None:
    configured = {"temperature": 0.1, "top_p": 0.9, "penalty_context_tokens": 64, "max_tokens": 2048}
    found = params(configured=configured, of_model={"temperature": 0.7})
    assert found.sampling.penalty_context_tokens == 64 and found.max_tokens == 2048
    assert found.sampling.temperature == 0.1
    assert params(configured=configured, max_tokens=5).max_tokens == 5


def test_stops_seed_and_limits() -> None:
    found = params(stop="END", stop_token_ids=[3], seed=-5, max_tokens=9.0)
    assert found.stop.strings == ("END",) and found.stop.token_ids == (3,)
    assert found.sampling.seed == -5 and found.max_tokens == 9
    both = {"messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 7}
    assert generation_params(validate(ChatRequest, both), {}, {}).max_tokens == 7
