"""The line that each request leaves in the log."""

from __future__ import annotations

import json
import re

import pytest

from inference.events import Admitted, Delta, FinishReason, ToolCallDelta
from tests.integration.api_scripted import BROKEN, PROMPT_TOKENS, Call, StandIn, chat, get, gone, post, said

CHAT = "/v1/chat/completions"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    from mlxd import access_log

    written: list[dict[str, object]] = []
    monkeypatch.setattr(access_log, "log_request", lambda **facts: written.append(facts))
    return written


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_leaves_one_line(stand_in: StandIn, lines: list[dict[str, object]], stream: bool) -> None:
    await post(CHAT, chat(stream=stream))
    (line,) = lines
    assert line.pop("duration_ms") > 0  # type: ignore[operator]
    assert re.fullmatch("[0-9a-f]{12}", str(line.pop("conv")))
    assert line == {
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "model": "tiny",
        "stream": stream,
        "prompt_tokens": PROMPT_TOKENS,
        "cached_tokens": 0,
        "lost_tokens": 0,
        "verdict": "none",
        "completion_tokens": 2,
        "queue_ms": 0.0,
        "ttft_ms": 500.0,
        "decode_tps": 8.0,
        "finish_reason": "stop",
        "error": None,
        "key_id": None,
    }


async def test_what_went_wrong_is_in_the_line(stand_in: StandIn, lines: list[dict[str, object]]) -> None:
    await post(CHAT, chat(temperature=9))
    await get("/v1/absent")
    stand_in.script = [Admitted("r", 7), Delta("x"), 0.01, BROKEN]
    await post(CHAT, chat(stream=True))
    stand_in.script = [60.0]
    call = Call("POST", CHAT, json.dumps(chat(stream=True)).encode()).start()
    await gone(call, lambda: stand_in.made[-1].all_told)
    told = [(line["status"], line["route"], line["error"]) for line in lines]
    assert told == [
        (400, "/v1/chat/completions", "invalid_value"),
        (404, "(none)", None),
        (200, "/v1/chat/completions", "generation_failed"),
        (499, "/v1/chat/completions", None),
    ]


async def test_what_broke_off_says_how_warm_it_began(stand_in: StandIn, lines: list[dict[str, object]]) -> None:
    stand_in.script = [Admitted("r", PROMPT_TOKENS, 3, "branched"), Delta("x"), BROKEN]
    await post(CHAT, chat(stream=True))
    (line,) = lines
    assert (line["cached_tokens"], line["verdict"]) == (3, "branched")
    assert "completion_tokens" not in line


async def test_a_call_is_told_and_logged_by_name_and_size(
    stand_in: StandIn, lines: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr("mlxd.access_log.log_tool_call", lambda name, size: seen.append((name, size)))
    script = said(reason=FinishReason.TOOL_CALLS)
    script.insert(1, ToolCallDelta(0, "call01", "look", '{"at": "é"}'))
    stand_in.script = script
    call = {"id": "call01", "type": "function", "function": {"name": "look", "arguments": '{"at": "é"}'}}
    (choice,) = (await post(CHAT, chat())).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}
    chunks = (await post(CHAT, chat(stream=True))).events()
    assert [chunk["choices"][0]["delta"] for chunk in chunks[:2]] == [
        {"role": "assistant", "content": ""},
        {"tool_calls": [{"index": 0, **call}]},
    ]
    assert seen == [("look", 12)] * 2 and "é" not in str(lines)


async def test_looking_is_not_logged(stand_in: StandIn, lines: list[dict[str, object]]) -> None:
    await get("/health/live")
    await get("/health")
    assert not lines
    stand_in.alive = False
    await get("/health/live")
    assert [line["status"] for line in lines] == [503]
