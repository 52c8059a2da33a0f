"""The life of a request in the real application: it never loses its stream, ends with its client, and is kept alive."""

from __future__ import annotations

import asyncio
import json

import pytest

from inference.events import Admitted, Delta, FinishReason, PrefillProgress
from mlxd.api import policy
from mlxd.transport.errors import ClientDisconnected
from tests.integration.api_scripted import Call, StandIn, chat, gone, post, said
from tests.scripted import until

CHAT = "/v1/chat/completions"


async def test_generations_of_one_token_never_lose_their_stream(stand_in: StandIn) -> None:
    stand_in.script = said("x", reason=FinishReason.LENGTH)
    for start in range(0, 400, 20):
        calls = [
            Call("POST", CHAT, json.dumps(chat(stream=bool(i % 2), max_tokens=1)).encode()).start()
            for i in range(start, start + 20)
        ]
        for i, call in enumerate(calls):
            answer = await call.result()
            assert answer.status == 200 and answer.complete
            if i % 2:
                assert answer.events()[-1] is None and answer.events()[1]["choices"][0]["delta"] == {"content": "x"}
            else:
                assert answer.json()["choices"][0]["message"]["content"] == "x"
    assert len(stand_in.made) == 400


# --- disconnects --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_disconnect_while_preparing(stand_in: StandIn, stream: bool) -> None:
    stand_in.opening = [60.0]
    call = Call("POST", CHAT, json.dumps(chat(stream=stream)).encode()).start()
    await gone(call, lambda: stand_in.asked)
    assert stand_in.abandoned == 1 and not stand_in.made
    assert call.answer.error is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "script",
    [
        pytest.param([60.0], id="queue"),
        pytest.param([Admitted("r", 7), 0.01, PrefillProgress(1, 7), 60.0], id="prefill"),
        pytest.param([Admitted("r", 7), 0.01, Delta("a"), 0.01, Delta("b"), 60.0], id="decode"),
    ],
)
async def test_disconnect_cancels_the_generation(stand_in: StandIn, stream: bool, script: list[object]) -> None:
    stand_in.script = script  # type: ignore[assignment]
    before = len(asyncio.all_tasks())
    call = Call("POST", CHAT, json.dumps(chat(stream=stream)).encode()).start()
    await gone(call, lambda: stand_in.made and stand_in.made[0].all_told)
    assert stand_in.made[0].cancelled
    assert len(asyncio.all_tasks()) == before, "nothing of a request outlives its connection"


async def test_disconnect_before_the_body_is_whole(stand_in: StandIn) -> None:
    call = Call("POST", CHAT)
    call.incoming.get_nowait()
    call.incoming.put_nowait({"type": "http.request", "body": b'{"mess', "more_body": True})
    call.start()
    await gone(call, call.incoming.empty)
    assert not stand_in.asked and not call.answer.messages


async def test_a_send_that_fails_ends_the_generation(stand_in: StandIn) -> None:
    stand_in.script = [Admitted("r", 7), *([0.001, Delta("a")] * 500), 60.0]
    call = Call("POST", CHAT, json.dumps(chat(stream=True)).encode())
    call.fail_after, call.failure = 5, ClientDisconnected("gone")
    answer = await call.start().result()
    assert isinstance(answer.error, ClientDisconnected) and len(answer.messages) == 5
    assert stand_in.made[0].cancelled


async def test_a_cancelled_application_cancels_the_generation(stand_in: StandIn) -> None:
    stand_in.script = [Admitted("r", 7), Delta("a"), 60.0]
    call = Call("POST", CHAT, json.dumps(chat(stream=True)).encode()).start()
    await until(lambda: stand_in.made and call.answer.messages)
    assert call.task is not None
    call.task.cancel()
    await call.result()
    assert stand_in.made[0].cancelled


# --- keep-alive ---------------------------------------------------------------------------------------------------


async def test_silence_is_filled_by_the_clock(stand_in: StandIn) -> None:
    policy.install(policy.Policy(keepalive_s=0.1))
    first, a, end = said("a")
    progress = [step for i in range(40) for step in (PrefillProgress(i, 40), 0.025)]
    stand_in.script = [first, 1.0, *progress, a, end]
    answer = await post(CHAT, chat(stream=True))
    assert answer.status == 200 and answer.complete
    gaps_s = [after - before for before, after in zip(answer.at_s, answer.at_s[1:], strict=False)]
    assert max(gaps_s) < 0.1 * 100
    assert answer.bodies.count(b": ping\n\n") >= 10, "also while nothing comes, and while only progress comes"
    assert answer.at_s[1] - answer.at_s[0] < 0.1 * 100, (
        "headers reach the client with the first byte, so it goes at once"
    )


async def test_progress_without_text_is_silence_too(stand_in: StandIn) -> None:
    policy.install(policy.Policy(keepalive_s=0.002))
    first, *_, end = said()
    stand_in.script = [first, *(step for i in range(5000) for step in (0.0, PrefillProgress(i, 5000))), 0.0, end]
    answer = await post(CHAT, chat(stream=True))
    assert answer.bodies.count(b": ping\n\n") >= 3, "batches that are always ready must not keep the ping away"


async def test_a_talking_stream_has_no_pings(stand_in: StandIn) -> None:
    policy.install(policy.Policy(keepalive_s=1.0))
    stand_in.script = [*said("a")[:1], *([Delta("a"), 0.015] * 100), said()[-1]]
    answer = await post(CHAT, chat(stream=True))
    assert b": ping" not in answer.body and len(answer.events()) == 100 + 3
