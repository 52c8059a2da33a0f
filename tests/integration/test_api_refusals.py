"""The bad-input tables, row by row, through the real application. Each row names the rule it stands for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mlxd import runtime
from tests.integration.api_scripted import VOCAB_SIZE, Answer, StandIn, chat, post
from tests.integration.request_bodies import CALL, CHAT, RAW, TOOL, call, calls, deep, tool, turns, user

PYTHON_WORDS = ("Traceback", "pydantic", "Error", "NoneType", "dict", "class", "Input should", "0x")


@pytest.fixture(autouse=True)
def stand_in() -> Iterator[StandIn]:
    made = StandIn()
    runtime.install(made)  # type: ignore[arg-type]
    yield made
    runtime.install(None)


VALUE, TYPE, MISSING, NO = "invalid_value", "invalid_type", "missing_required_parameter", "unsupported_parameter"
FORM = "response_format.json_schema"


def form(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    # rule, fields, code, param
    ("B27", chat(temperature="0.5"), TYPE, "temperature"),
    ("B27", chat(temperature=True), TYPE, "temperature"),
    ("B27", chat(max_tokens="12"), TYPE, "max_tokens"),
    ("B27", chat(max_tokens=True), TYPE, "max_tokens"),
    ("B27", chat(top_k=1.5), TYPE, "top_k"),
    ("B27", chat(user=12), TYPE, "user"),
    ("B27", chat(store="true"), TYPE, "store"),
    ("B27", chat(model=["tiny"]), TYPE, "model"),
    ("B33", chat(temperature=-0.1), VALUE, "temperature"),
    ("B33", chat(temperature=2.1), VALUE, "temperature"),
    ("B33", chat(temperature="hot"), TYPE, "temperature"),
    ("B33", chat(temperature=10**400), TYPE, "temperature"),
    ("B33", chat(temperature=[]), TYPE, "temperature"),
    ("B34", chat(top_p=0), VALUE, "top_p"),
    ("B34", chat(top_p=-1), VALUE, "top_p"),
    ("B34", chat(top_p=1.1), VALUE, "top_p"),
    ("B35", chat(top_k=-2), VALUE, "top_k"),
    ("B35", chat(top_k=1e12), VALUE, "top_k"),
    ("B36", chat(min_p=2), VALUE, "min_p"),
    ("B36", chat(min_p=-0.1), VALUE, "min_p"),
    ("B37", chat(presence_penalty=2.5), VALUE, "presence_penalty"),
    ("B37", chat(frequency_penalty=-2.5), VALUE, "frequency_penalty"),
    ("B37", chat(repetition_penalty=0), VALUE, "repetition_penalty"),
    ("B37", chat(repetition_penalty=2.5), VALUE, "repetition_penalty"),
    ("B38", chat(seed=2**64), VALUE, "seed"),
    ("B38", chat(seed=2**63), VALUE, "seed"),
    ("B38", chat(seed=-(2**63) - 1), VALUE, "seed"),
    ("B38", chat(seed=1.5), TYPE, "seed"),
    ("B39", chat(n=0), VALUE, "n"),
    ("B39", chat(n=-1), VALUE, "n"),
    ("B39", chat(n=129), VALUE, "n"),
    ("B39", chat(n=1e18), VALUE, "n"),
    ("B39", chat(n=9), VALUE, "n"),
    ("B41", chat(max_tokens=0), VALUE, "max_tokens"),
    ("B41", chat(max_tokens=-1), VALUE, "max_tokens"),
    ("B41", chat(max_tokens=1.5), TYPE, "max_tokens"),
    ("B41", chat(max_tokens=2**63), VALUE, "max_tokens"),
    ("B41", chat(max_completion_tokens=0), VALUE, "max_completion_tokens"),
    ("B43", chat(max_tokens=5, max_completion_tokens=6), VALUE, "max_completion_tokens"),
    ("B45", chat(min_tokens=6, max_tokens=5), VALUE, "min_tokens"),
    ("B45", chat(min_tokens=-1), VALUE, "min_tokens"),
    ("B45", chat(ignore_eos=1), TYPE, "ignore_eos"),
    ("B46", chat(stop=["a"] * 5), VALUE, "stop"),
    ("B46", chat(stop=["a"] * 10_000), VALUE, "stop"),
    ("B46", chat(stop=[""]), VALUE, "stop[0]"),
    ("B46", chat(stop=["a", "x" * 10_240]), VALUE, "stop[1]"),
    ("B46", chat(stop=["a", 1]), TYPE, "stop[1]"),
    ("B46", chat(stop=7), TYPE, "stop"),
    ("B47", chat(logit_bias={"1": 101}), VALUE, "logit_bias.1"),
    ("B47", chat(logit_bias={str(VOCAB_SIZE): 5}), VALUE, "logit_bias"),
    ("B47", chat(logit_bias={"-1": 5}), VALUE, "logit_bias"),
    ("B47", chat(logit_bias={"01": 5}), VALUE, "logit_bias"),
    ("B47", chat(logit_bias={"\u0661": 5}), VALUE, "logit_bias"),
    ("B47", chat(logit_bias={"hello": 5}), VALUE, "logit_bias"),
    ("B47", chat(logit_bias={"9" * 400: 5}), VALUE, "logit_bias"),
    ("B47", chat(logit_bias=dict.fromkeys(map(str, range(1025)), 1)), VALUE, "logit_bias"),
    ("B47", chat(logit_bias=[1]), TYPE, "logit_bias"),
    ("B48", chat(logprobs=5), TYPE, "logprobs"),
    ("B48", chat(logprobs=True, top_logprobs=21), VALUE, "top_logprobs"),
    ("B48", chat(logprobs=True, top_logprobs=-1), VALUE, "top_logprobs"),
    ("B48", chat(top_logprobs=3), VALUE, "top_logprobs"),
    ("B49", chat(prompt_logprobs=1), NO, "prompt_logprobs"),
    ("penalty context", chat(repetition_context_size=-1), VALUE, "repetition_context_size"),
    ("penalty context", chat(repeat_last_n=-2), VALUE, "repeat_last_n"),
    ("penalty context", chat(repeat_last_n=3, repetition_context_size=4), VALUE, "repeat_last_n"),
    ("KV", chat(kv_bits=5), VALUE, "kv_bits"),
    ("KV", chat(kv_bits="8"), VALUE, "kv_bits"),
    ("KV", chat(kv_bits=8, kv_group_size=16), VALUE, "kv_group_size"),
    ("KV", chat(kv_bits=8, quantized_kv_start=-1), VALUE, "quantized_kv_start"),
    ("B50", chat(stream="true"), TYPE, "stream"),
    ("B50", chat(stream=1), TYPE, "stream"),
    ("B51", chat(stream_options={"include_usage": True}), VALUE, "stream_options"),
    ("B51", chat(stream_options={}), VALUE, "stream_options"),
    ("B51", chat(stream=True, stream_options={"include_usage": 1}), TYPE, "stream_options.include_usage"),
    ("B51", chat(stream=True, stream_options=[]), TYPE, "stream_options"),
    ("B52", chat(stop_token_ids=[-1]), VALUE, "stop_token_ids[0]"),
    ("B52", chat(stop_token_ids=["1"]), TYPE, "stop_token_ids[0]"),
    ("B52", chat(stop_token_ids=[1] * 65), VALUE, "stop_token_ids"),
    ("B52", chat(stop_token_ids=[5, VOCAB_SIZE]), VALUE, "stop_token_ids[1]"),
    ("B52", chat(bad_words=["x"]), NO, "bad_words"),
    ("B53", chat(cache_salt=""), VALUE, "cache_salt"),
    ("B53", chat(cache_salt="x" * 10_240), VALUE, "cache_salt"),
    ("B53", chat(cache_salt="a\nb"), VALUE, "cache_salt"),
    ("B54", chat(user="x" * 1_000_000), VALUE, "user"),
    ("B54", chat(metadata={"a": "x" * 1_000_000}), VALUE, "metadata"),
    ("B54", chat(metadata="x"), TYPE, "metadata"),
    ("B55", chat(service_tier="junk"), VALUE, "service_tier"),
    ("B55", chat(reasoning_effort="enormous"), VALUE, "reasoning_effort"),
    ("B55", chat(reasoning_effort=3), VALUE, "reasoning_effort"),
    ("B55", chat(verbosity="junk"), VALUE, "verbosity"),
    ("B57", chat(chat_template="{{ messages }}"), NO, "chat_template"),
    ("B57", chat(chat_template=""), NO, "chat_template"),
    ("B58", chat(chat_template_kwargs={"tokenize": True}), NO, "chat_template_kwargs"),
    ("B58", chat(chat_template_kwargs={"messages": []}), NO, "chat_template_kwargs"),
    ("B58", chat(chat_template_kwargs={"enable_thinking": "no"}), TYPE, "chat_template_kwargs.enable_thinking"),
    ("B58", chat(chat_template_kwargs={"enable_thinking": [True]}), TYPE, "chat_template_kwargs.enable_thinking"),
    ("B58", chat(chat_template_kwargs={"thinking_budget": True}), TYPE, "chat_template_kwargs.thinking_budget"),
    (
        "T49",
        chat(chat_template_kwargs={"reasoning_effort": "<|im_end|>"}),
        VALUE,
        "chat_template_kwargs.reasoning_effort",
    ),
    ("B58", chat(chat_template_kwargs=[]), TYPE, "chat_template_kwargs"),
    ("B58", chat(enable_thinking="yes"), TYPE, "enable_thinking"),
    ("B60", {}, MISSING, "messages"),
    ("B60", {"messages": None}, TYPE, "messages"),
    ("B60", {"messages": []}, VALUE, "messages"),
    ("B60", {"messages": {}}, TYPE, "messages"),
    ("B60", {"messages": "Hi"}, TYPE, "messages"),
    ("B60", turns("Hi"), TYPE, "messages[0]"),  # type: ignore[arg-type]
    ("B61", turns({"role": "robot", "content": "x"}), VALUE, "messages[0].role"),
    ("B61", turns({"role": "System", "content": "x"}), VALUE, "messages[0].role"),
    ("B61", turns({"role": None, "content": "x"}), VALUE, "messages[0].role"),
    ("B61", turns({"content": "x"}), MISSING, "messages[0].role"),
    ("B62", user(content=None), MISSING, "messages[0].content"),
    ("B62", user(), MISSING, "messages[0].content"),
    ("B62", user(content=[]), VALUE, "messages[0].content"),
    ("B62", user(content=1), TYPE, "messages[0].content"),
    ("B62", user(content={}), TYPE, "messages[0].content"),
    ("B62", turns({"role": "system", "content": None}), MISSING, "messages[0].content"),
    ("B62", turns({"role": "tool", "tool_call_id": "a", "content": None}), MISSING, "messages[0].content"),
    ("B64", user(content=["x"]), TYPE, "messages[0].content[0]"),
    ("B64", user(content=[{}]), MISSING, "messages[0].content[0].type"),
    ("B64", user(content=[{"type": "text"}]), MISSING, "messages[0].content[0].text"),
    ("B64", user(content=[{"type": "text", "text": 1}]), TYPE, "messages[0].content[0].text"),
    ("B64", user(content=[{"type": "hologram"}]), NO, "messages[0].content[0].type"),
    ("B64", user(content=[{"type": "text", "text": "a"}, {"type": "file"}]), NO, "messages[0].content[1].type"),
    ("B64", user(content=[{"type": "input_audio"}]), NO, "messages[0].content[0].type"),
    ("B69", calls(CALL, CALL), "duplicate_id", "messages[1].tool_calls[1].id"),
    ("B70", calls(call(id="")), VALUE, "messages[1].tool_calls[0].id"),
    ("B70", calls(call(id="x" * 10_240)), VALUE, "messages[1].tool_calls[0].id"),
    ("B70", calls(call(id=7)), TYPE, "messages[1].tool_calls[0].id"),
    ("B70", calls({"function": CALL["function"]}), MISSING, "messages[1].tool_calls[0].id"),
    ("B10", calls(call(id="a\x00b")), VALUE, "messages[1].tool_calls[0].id"),
    ("B10", calls(call(function={"name": "a\x00", "arguments": ""})), VALUE, "messages[1].tool_calls[0].function.name"),
    ("B70", turns({"role": "tool", "content": "x"}), MISSING, "messages[0].tool_call_id"),
    ("B70", turns({"role": "tool", "content": "x", "tool_call_id": ""}), VALUE, "messages[0].tool_call_id"),
    (
        "B71",
        calls(call(function={"name": "read", "arguments": 5})),
        TYPE,
        "messages[1].tool_calls[0].function.arguments",
    ),
    ("B71", calls(call(function=None)), TYPE, "messages[1].tool_calls[0].function"),
    ("B71", calls(call(function={"arguments": ""})), MISSING, "messages[1].tool_calls[0].function.name"),
    ("B71", user(content="Hi", tool_calls=[CALL]), VALUE, "messages[0].tool_calls"),
    ("B66", chat(continue_final_message=True), VALUE, "continue_final_message"),
    ("B66", chat(add_generation_prompt=False), NO, "add_generation_prompt"),
    ("B81", chat(tools={}), TYPE, "tools"),
    ("B81", chat(tools=[tool(name=f"t{i}") for i in range(513)]), VALUE, "tools"),
    ("B81", chat(tools=[TOOL, TOOL]), "duplicate_name", "tools[1].function.name"),
    ("B81", chat(tools=[tool(name="a b")]), VALUE, "tools[0].function.name"),
    ("B81", chat(tools=[tool(name="x" * 65)]), VALUE, "tools[0].function.name"),
    ("B81", chat(tools=[tool(name="caf\u00e9")]), VALUE, "tools[0].function.name"),
    ("B81", chat(tools=[tool(name="")]), VALUE, "tools[0].function.name"),
    ("B81", chat(tools=[tool(name="a\n")]), VALUE, "tools[0].function.name"),
    ("B81", chat(tools=[{"type": "function"}]), MISSING, "tools[0].function"),
    ("B81", chat(tools=[{"type": "web_search"}]), NO, "tools[0].type"),
    ("B81", chat(tools=[tool(strict="yes")]), TYPE, "tools[0].function.strict"),
    ("B81", chat(tools=[tool(description=1)]), TYPE, "tools[0].function.description"),
    ("B82", chat(tools=[tool(parameters=[])]), TYPE, "tools[0].function.parameters"),
    ("B82", chat(tools=[tool(parameters="{}")]), TYPE, "tools[0].function.parameters"),
    ("B83", chat(tools=[tool(parameters=deep(33))]), VALUE, "tools[0].function.parameters"),
    ("B86", chat(tools=[TOOL], tool_choice="sometimes"), VALUE, "tool_choice"),
    ("B86", chat(tools=[TOOL], tool_choice=1), VALUE, "tool_choice"),
    ("B86", chat(tool_choice="required"), VALUE, "tool_choice"),
    ("B86", chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "absent"}}), VALUE, "tool_choice"),
    ("B86", chat(tools=[TOOL], tool_choice={"type": "function"}), VALUE, "tool_choice"),
    ("B87", chat(response_format={"type": "yaml"}), VALUE, "response_format.type"),
    ("B87", chat(response_format={}), MISSING, "response_format.type"),
    ("B87", chat(response_format="json"), TYPE, "response_format"),
    ("B87", chat(response_format={"type": "json_schema"}), MISSING, "response_format.json_schema"),
    ("B87", chat(response_format={"type": "json_schema", "json_schema": {}}), MISSING, f"{FORM}.schema"),
    ("B87", chat(response_format=form(False)), TYPE, f"{FORM}.schema"),
    ("B87", chat(response_format=form([])), TYPE, f"{FORM}.schema"),
    ("B83", chat(response_format=form(deep(33))), VALUE, f"{FORM}.schema"),
    ("B89", chat(response_format=form({"description": "x" * 1_100_000})), VALUE, f"{FORM}.schema"),
    ("B88", chat(guided_grammar='root ::= "a"'), NO, "guided_grammar"),
    ("B88", chat(structured_outputs={"grammar": 'root ::= "a"'}), NO, "structured_outputs.grammar"),
    ("B88", chat(structured_outputs={"structural_tag": {}}), NO, "structured_outputs.structural_tag"),
    ("B87", chat(guided_json="{", guided_choice=None), VALUE, "guided_json"),
    ("B87", chat(guided_json=[]), TYPE, "guided_json"),
    ("B84", chat(guided_regex="a\\"), VALUE, "guided_regex"),
    ("B84", chat(guided_regex="(" * 70_000), VALUE, "guided_regex"),
    ("B85", chat(guided_choice=[]), VALUE, "guided_choice"),
    ("B85", chat(guided_choice=["x"] * 5_000), VALUE, "guided_choice"),
    ("B85", chat(guided_choice=[""]), VALUE, "guided_choice[0]"),
    ("B87", chat(guided_choice=["a"], guided_regex="a"), VALUE, "guided_choice"),
    ("B87", chat(guided_choice=["a"], response_format={"type": "json_object"}), VALUE, "guided_choice"),
    ("B89", chat(tools=[tool(parameters={"d": "x" * 1_100_000})]), VALUE, "tools"),
    ("B81", chat(functions=[{"name": "f"}]), NO, "functions"),
    ("B81", chat(function_call={"name": "f"}), NO, "function_call"),
    ("B27", chat(modalities=["text", "audio"]), NO, "modalities"),
    ("B27", chat(web_search_options={}), NO, "web_search_options"),
]
RAW_REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("B78", {}, MISSING, "prompt"),
    ("B78", {"prompt": None}, TYPE, "prompt"),
    ("B78", {"prompt": 5}, TYPE, "prompt"),
    ("B78", {"prompt": {}}, TYPE, "prompt"),
    ("B78", {"prompt": []}, VALUE, "prompt"),
    ("B78", {"prompt": [[]]}, VALUE, "prompt[0]"),
    ("B78", {"prompt": [1, VOCAB_SIZE]}, VALUE, "prompt[1]"),
    ("B78", {"prompt": [1, -1]}, VALUE, "prompt[1]"),
    ("B78", {"prompt": [1, 2.0]}, VALUE, "prompt[1]"),
    ("B78", {"prompt": [True]}, VALUE, "prompt[0]"),
    ("B78", {"prompt": [1, "a"]}, VALUE, "prompt[1]"),
    ("B78", {"prompt": [[1, None]]}, VALUE, "prompt[0][1]"),
    ("B78", {"prompt": [None]}, VALUE, "prompt[0]"),
    ("B79", {"prompt": ["a"] * 10_000}, VALUE, "prompt"),
    ("B79", {"prompt": ["a", "b"]}, NO, "prompt"),
    ("B40", {"prompt": "x", "best_of": 2}, NO, "best_of"),
    ("B40", {"prompt": "x", "suffix": "y"}, NO, "suffix"),
    ("B40", {"prompt": "x", "n": 2, "best_of": 3}, NO, "best_of"),
    ("B40", {"prompt": [1, 2], "echo": True}, NO, "echo"),
    ("B48", {"prompt": "x", "logprobs": 3, "echo": True}, NO, "logprobs"),
    ("B48", {"prompt": "x", "logprobs": True}, TYPE, "logprobs"),
    ("B48", {"prompt": "x", "logprobs": 9}, VALUE, "logprobs"),
    ("B52", {"prompt": "x", "stop_token_ids": [VOCAB_SIZE]}, VALUE, "stop_token_ids[0]"),
    ("B33", {"prompt": "x", "temperature": 3}, VALUE, "temperature"),
    ("B51", {"prompt": "x", "stream_options": {}}, VALUE, "stream_options"),
]


def ids(rows: list[tuple[str, dict[str, Any], str, str]]) -> list[str]:
    return [f"{i}-{rule}-{param}"[:60] for i, (rule, _, _, param) in enumerate(rows)]


def assert_refused(answer: Answer, body: dict[str, Any], code: str, param: str) -> None:
    assert answer.status == 400, answer.body[:500]
    assert answer.headers["content-type"] == "application/json"
    refusal = answer.refusal
    assert (refusal["code"], refusal["param"], refusal["type"]) == (code, param, "invalid_request_error"), refusal
    message = refusal["message"]
    assert len(message) < 300 and not any(word in message for word in PYTHON_WORDS), message
    assert param.split("[")[0].split(".")[0] in message, "the message names the field"


@pytest.mark.parametrize(("rule", "body", "code", "param"), REFUSED, ids=ids(REFUSED))
async def test_chat_refuses(stand_in: StandIn, rule: str, body: dict[str, Any], code: str, param: str) -> None:
    assert_refused(await post(CHAT, body), body, code, param)
    assert not stand_in.asked, "a refused request reaches nothing"


@pytest.mark.parametrize(("rule", "body", "code", "param"), RAW_REFUSED, ids=ids(RAW_REFUSED))
async def test_completions_refuse(stand_in: StandIn, rule: str, body: dict[str, Any], code: str, param: str) -> None:
    assert_refused(await post(RAW, body), body, code, param)
    assert not stand_in.asked
