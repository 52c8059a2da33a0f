"""The tables of inputs, row by row, through the real application: what is accepted, and what holds for every body."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mlxd import runtime
from tests.integration.api_scripted import VOCAB_SIZE, StandIn, chat, post
from tests.integration.request_bodies import CALL, CHAT, RAW, TOOL, call, calls, deep, tool, turns, user


@pytest.fixture(autouse=True)
def stand_in() -> Iterator[StandIn]:
    made = StandIn()
    runtime.install(made)  # type: ignore[arg-type]
    yield made
    runtime.install(None)


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
