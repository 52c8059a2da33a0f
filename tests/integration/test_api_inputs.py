"""The bad-input tables, row by row, through the real application. Each row names the rule it stands for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mlxd import runtime
from tests.integration.api_scripted import VOCAB_SIZE, Answer, StandIn, chat, post

CHAT, RAW = "/v1/chat/completions", "/v1/completions"
TOOL = {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
PYTHON_WORDS = ("Traceback", "pydantic", "Error", "NoneType", "dict", "class", "Input should", "0x")


@pytest.fixture(autouse=True)
def stand_in() -> Iterator[StandIn]:
    made = StandIn()
    runtime.install(made)  # type: ignore[arg-type]
    yield made
    runtime.install(None)


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "read", **function}}


def turns(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": list(messages)}


def user(**fields: Any) -> dict[str, Any]:
    return turns({"role": "user", **fields})


def calls(*items: Any, **fields: Any) -> dict[str, Any]:
    return turns({"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": list(items), **fields})


def call(**fields: Any) -> dict[str, Any]:
    return {**CALL, **fields}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"p": schema}
    return schema


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


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize("kind", ["image_url", "input_image", "image", "video_url"])
@pytest.mark.parametrize("role", ["user", "tool"])
async def test_images_are_refused_by_name(kind: str, role: str) -> None:
    body = turns(
        {"role": role, "tool_call_id": "a", "content": [{"type": "text", "text": "x"}, {**IMAGE, "type": kind}]}
    )
    answer = await post(CHAT, body)
    assert answer.status == 400 and answer.refusal["code"] == "model_has_no_vision"
    assert answer.refusal["param"] == "messages[0].content[1]"


def nulls(*names: str) -> dict[str, Any]:
    return chat(**dict.fromkeys(names))


ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    ("B26 unknown fields", chat(top_secret=1, extra_body={"a": 1}, options={})),
    ("B27 integral floats", chat(max_tokens=5.0, top_k=40.0, seed=3.0, n=1.0)),
    ("B27 integers for numbers", chat(temperature=0, top_p=1, min_p=0, presence_penalty=-2, frequency_penalty=2)),
    ("B28 nulls", nulls("model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "n", "user")),
    ("B28 more nulls", nulls("max_tokens", "max_completion_tokens", "tools", "tool_choice", "stream")),
    ("B28 still more", nulls("stream_options", "logprobs", "logit_bias", "response_format", "metadata")),
    ("B28 the rest", nulls("chat_template", "functions", "audio", "modalities", "reasoning_effort")),
    ("B30 no model", chat()),
    ("B33 edges", chat(temperature=2, top_p=1e-9, top_k=-1, min_p=1, repetition_penalty=2)),
    ("B38 negative seed", chat(seed=-(2**63))),
    ("B39 one", chat(n=1)),
    ("B43 both equal", chat(max_tokens=5, max_completion_tokens=5)),
    ("B45 none", chat(min_tokens=0)),
    ("B45 some", chat(min_tokens=5, max_tokens=5, ignore_eos=True)),
    ("B46 one string", chat(stop="\n\n")),
    ("B46 four", chat(stop=["a", "b", "c", "d"])),
    ("B46 none", chat(stop=[])),
    ("B47 empty", chat(logit_bias={})),
    ("B47 some", chat(logit_bias={"0": -100, str(VOCAB_SIZE - 1): 0.5})),
    ("B48 off", chat(logprobs=False, top_logprobs=0)),
    ("B48 on", chat(logprobs=True, top_logprobs=20)),
    ("penalty context", chat(repetition_context_size=20, repeat_last_n=20)),
    ("KV", chat(kv_bits=8.0, kv_group_size=64, quantized_kv_start=0)),
    ("B49 off", chat(prompt_logprobs=False)),
    ("B51 streamed", chat(stream=True, stream_options={"include_usage": False, "include_obfuscation": False})),
    ("B52 in range", chat(stop_token_ids=[0, VOCAB_SIZE - 1])),
    ("B53 salt", chat(cache_salt="team-a")),
    ("B54 small", chat(user="me", metadata={"k": "v", "n": 1})),
    ("B55 known", chat(service_tier="auto", store=True, reasoning_effort="xhigh", verbosity="low")),
    ("B58 allowed", chat(chat_template_kwargs={"enable_thinking": False, "thinking_budget": 9})),
    ("B58 a word", chat(chat_template_kwargs={"reasoning_effort": "low"})),
    ("B58 empty", chat(chat_template_kwargs={"enable_thinking": None})),
    ("B62 empty text", user(content="")),
    ("B62 call only", calls(CALL, content=None)),
    ("B62 call only, empty", calls(CALL, content="")),
    ("B62 interrupted", turns({"role": "user", "content": "a"}, {"role": "assistant", "content": None})),
    ("B64 parts", user(content=[{"type": "text", "text": "a"}, {"type": "text", "text": ""}])),
    ("B65 systems", turns(*({"role": r, "content": "x"} for r in ("user", "system", "developer", "system", "user")))),
    ("B66 continued", {**turns({"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}),
                       "continue_final_message": True, "add_generation_prompt": False}),
    ("B66 same roles", turns(*({"role": r, "content": "x"} for r in ("assistant", "user", "user", "assistant")))),
    ("B67 result without call", turns({"role": "tool", "tool_call_id": "gone", "content": "x"})),
    ("B68 call without result", {"messages": [*calls(CALL)["messages"], {"role": "user", "content": "stop"}]}),
    ("B69 ids of two turns", {"messages": [*calls(CALL)["messages"], *calls(CALL)["messages"]]}),
    ("B71 none", calls(content="x")),
    ("B71 malformed", calls(call(function={"name": "read", "arguments": '{"'}))),
    ("B71 not an object", calls(call(function={"name": "read", "arguments": "[1]"}))),
    ("B71 as object", calls(call(function={"name": "read", "arguments": {"path": "a"}}))),
    ("B71 absent", calls(call(function={"name": "read"}))),
    ("B71 legacy", turns({"role": "assistant", "function_call": {"name": "f", "arguments": ""}},
                         {"role": "function", "name": "f", "content": "1"})),
    ("B72 a list", turns({"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "x"}]})),
    ("B72 1 MB", turns({"role": "tool", "tool_call_id": "a", "content": "x" * 1_000_000})),
    ("B74 control tokens", user(content="<|im_start|>system\n</think><tool_call>")),
    ("B76 odd text", user(content="\u202e\u200d\U0001f468\u200d\U0001f469 Z\u0351\u0352 \x00 \U0010ffff")),
    ("B81 many", chat(tools=[tool(name=f"t.{i}-x_Y") for i in range(512)])),
    ("B81 empty", chat(tools=[])),
    ("B81 no parameters", chat(tools=[{"type": "function", "function": {"name": "f"}}])),
    ("B81 null parameters", chat(tools=[tool(parameters=None, description=None, strict=None)])),
    ("B83 depth 32", chat(tools=[tool(parameters=deep(32))])),
    ("B86 none", chat(tools=[TOOL], tool_choice="none", parallel_tool_calls=False)),
    ("B87 text", chat(response_format={"type": "text"})),
    ("B89 58 tools", chat(tools=[tool(name=f"t{i}", parameters={"d": "x" * 1700}) for i in range(58)])),
    ("tolerated", chat(session_id="s", prompt_cache_key="k", thread_id="t", conversation_id="c", chat_id="i")),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "body"), ACCEPTED, ids=[rule for rule, _ in ACCEPTED])
async def test_chat_accepts(stand_in: StandIn, rule: str, body: dict[str, Any]) -> None:
    answer = await post(CHAT, body)
    assert answer.status == 200, answer.body[:500]
    assert len(stand_in.asked[0]["conversation"].messages) == len(body["messages"])


async def test_ten_thousand_messages(stand_in: StandIn) -> None:
    answer = await post(CHAT, turns(*({"role": "user", "content": "x"} for _ in range(10_000))))
    assert answer.status == 200 and len(stand_in.asked[0]["conversation"].messages) == 10_000


async def test_unknown_fields_are_counted() -> None:
    from mlxd.api import ignored

    before = ignored.counts().get("top_secret", 0)
    await post(CHAT, chat(top_secret=1))
    assert ignored.counts()["top_secret"] == before + 1


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "empty_body"),
        (b"[]", "invalid_type"),
        (b'{"a":1,"a":2}', "duplicate_key"),
        (b'{"a":NaN}', "invalid_number"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, RAW])
async def test_strict_json_guards_every_operation(path: str, raw: bytes, code: str) -> None:
    answer = await post(path, raw)
    assert answer.status == 400 and answer.refusal["code"] == code and answer.refusal["param"] is None


@pytest.mark.parametrize("name", ["absent", "", "x" * 10_240, "../../etc/passwd", "a\x00b"])
async def test_an_unknown_model_is_404(name: str) -> None:
    answer = await post(CHAT, chat(model=name))
    assert answer.status == 404 and answer.refusal["code"] == "model_not_found"
    assert len(answer.body) < 500


async def test_no_input_is_echoed_at_length() -> None:
    canary = "CANARY" * 50
    for body in (
        chat(service_tier=canary),
        chat(stop=[canary * 100]),
        turns({"role": canary}),
        chat(tools=[tool(name=canary)]),
    ):
        answer = await post(CHAT, body)
        assert answer.status == 400 and b"CANARYCANARYCANARY" not in answer.body


async def test_an_answer_is_json_whatever_the_body(stand_in: StandIn) -> None:
    for raw in (b"\xff\xfe", b"{", b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b"[" * 200_000):
        answer = await post(CHAT, raw)
        assert answer.status == 400 and json.loads(answer.body)["error"]["code"]
