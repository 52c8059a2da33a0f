"""Several answers and log-probabilities through the real application; only the runtime follows a script."""

from __future__ import annotations

import json
from typing import Any

from inference.errors import GenerationFailed
from inference.events import Admitted, Channel, Delta, Event, Failed, Finished, FinishReason, TokenLogprob, Usage
from inference.params import KVQuantisation
from tests.integration.api_scripted import PROMPT_TOKENS, StandIn, chat, post

CHAT, RAW = "/v1/chat/completions", "/v1/completions"


def scored(text: str, choice: int = 0, **fields: Any) -> Delta:
    """Each byte a token; the next byte is the second most likely."""
    found = tuple(TokenLogprob(byte, -0.25, ((byte, -0.25), (byte + 1, -2.0))) for byte in text.encode())
    return Delta(text, len(found), choice=choice, logprobs=found, **fields)


def two_answers() -> list[Event]:
    return [
        Admitted("r", PROMPT_TOKENS),
        scored("b", 1),
        scored("a"),
        Finished(FinishReason.LENGTH, Usage(PROMPT_TOKENS, completion_tokens=1), choice=1),
        scored("á"),
        Finished(FinishReason.STOP, Usage(PROMPT_TOKENS, completion_tokens=4)),
    ]


def entry(byte: int, logprob: float, **more: Any) -> dict[str, Any]:
    text = chr(byte) if byte < 128 else f"\\x{byte:02x}"
    return {"token": text, "logprob": logprob, "bytes": [byte], **more}


async def test_chat(stand_in: StandIn) -> None:
    stand_in.script = two_answers()
    answer = await post(CHAT, chat(n=2, logprobs=True, top_logprobs=2, seed=4))
    params = stand_in.asked[0]["params"]
    assert (params.n, params.top_logprobs, params.sampling.seed) == (2, 2, 4)
    first, second = answer.json()["choices"]
    assert (first["index"], first["message"]["content"], first["finish_reason"]) == (0, "aá", "stop")
    assert (second["index"], second["message"]["content"], second["finish_reason"]) == (1, "b", "length")
    assert first["logprobs"]["content"] == [
        entry(byte, -0.25, top_logprobs=[entry(byte, -0.25), entry(byte + 1, -2.0)]) for byte in "aá".encode()
    ]
    usage = answer.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (PROMPT_TOKENS, 4)


async def test_streamed_chat(stand_in: StandIn) -> None:
    stand_in.script = two_answers()
    chunks = (await post(CHAT, chat(n=2, logprobs=True, stream=True))).events()
    assert chunks.pop() is None
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    for index, text in ((0, "aá"), (1, "b")):
        mine = [choice for choice in choices if choice["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in mine) == text
        raw = [byte for one in mine for token in (one["logprobs"] or {}).get("content", ()) for byte in token["bytes"]]
        assert bytes(raw).decode() == text
        assert [choice["finish_reason"] is not None for choice in mine] == [False] * (len(mine) - 1) + [True]
    assert [bool(chunk.get("usage")) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


async def test_thoughts_are_not_scored(stand_in: StandIn) -> None:
    finish = Finished(FinishReason.STOP, Usage(PROMPT_TOKENS, completion_tokens=2))
    stand_in.script = [Admitted("r", 1), scored("why", channel=Channel.REASONING), scored("so"), finish]
    (choice,) = (await post(CHAT, chat(logprobs=True))).json()["choices"]
    assert choice["message"]["reasoning_content"] == "why"
    assert [one["token"] for one in choice["logprobs"]["content"]] == ["s", "o"]


async def test_completions(stand_in: StandIn) -> None:
    stand_in.script = two_answers()
    body = json.dumps({"prompt": "x", "n": 2, "best_of": 2, "logprobs": 1}).encode()
    first, second = (await post(RAW, body)).json()["choices"]
    assert stand_in.asked[0]["params"].top_logprobs == 1
    assert first["text"] == "aá"
    assert first["logprobs"] == {
        "tokens": ["a", "\\xc3", "\\xa1"],
        "token_logprobs": [-0.25] * 3,
        "top_logprobs": [{"a": -0.25, "b": -2.0}, {"\\xc3": -0.25, "\\xc4": -2.0}, {"\\xa1": -0.25, "\\xa2": -2.0}],
        "text_offset": [0, 1, 1],
    }
    assert second["logprobs"]["tokens"] == ["b"]


async def test_a_failure_after_one_has_ended_is_a_failure(stand_in: StandIn) -> None:
    failed = Failed(GenerationFailed("The engine failed in this batch."))
    stand_in.script = [*two_answers()[:4], failed]
    assert (await post(CHAT, chat(n=2))).status == 500
    stand_in.script = [*two_answers()[:4], 0.0, failed]
    streamed = await post(CHAT, chat(n=2, stream=True))
    assert b"[DONE]" not in streamed.body and b"generation_failed" in streamed.body


async def test_the_rest_of_the_surface_reaches_the_engine(stand_in: StandIn) -> None:
    await post(
        CHAT,
        chat(
            logit_bias={"5": -100, "7": 2.5},
            min_tokens=3,
            max_tokens=9,
            ignore_eos=True,
            repetition_context_size=20,
            kv_bits=4,
            kv_group_size=32,
            quantized_kv_start=100,
        ),
    )
    params = stand_in.asked[0]["params"]
    assert params.sampling.logit_bias == ((5, -100.0), (7, 2.5))
    assert (params.min_tokens, params.ignore_eos, params.sampling.penalty_context_tokens) == (3, True, 20)
    assert params.kv == KVQuantisation(4, 32, 100)
