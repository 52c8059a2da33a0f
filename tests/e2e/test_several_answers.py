"""Several answers, their log-probabilities and the rest of sampling: the official SDK against a real daemon."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.daemon import ServedDaemon
from tests.tiny_models import EOS_ID, build

MESSAGES: Any = [{"role": "user", "content": "Say something. " * 30}]
ASK: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "temperature": 1.0, "seed": 5, "max_tokens": 20}

WARMTH = {"tokens_per_second", "prompt_tokens_details"}
"""What differs between a prompt's first time and its second."""


def streamed(client: openai.OpenAI, **asked: Any) -> dict[int, dict[str, Any]]:
    """What a client adds up: text, scored tokens and finish reason of each answer."""
    answers: dict[int, dict[str, Any]] = {}
    for chunk in client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked):
        for choice in chunk.choices:
            answer = answers.setdefault(choice.index, {"text": "", "scores": [], "reason": None})
            answer["text"] += choice.delta.content or ""
            answer["scores"] += (choice.logprobs.content or []) if choice.logprobs else []
            answer["reason"] = choice.finish_reason or answer["reason"]
        if chunk.usage:
            answers[-1] = chunk.usage.model_dump(exclude=WARMTH)
    return answers


def test_three_answers_with_logprobs_streamed_and_folded(client: openai.OpenAI) -> None:
    asked = {**ASK, "n": 3, "logprobs": True, "top_logprobs": 4}
    folded = client.chat.completions.create(**asked)
    live = streamed(client, **asked)
    assert folded.usage
    usage = folded.usage.model_dump(exclude=WARMTH)
    assert live.pop(-1) == usage
    assert [choice.index for choice in folded.choices] == sorted(live) == [0, 1, 2]
    for choice in folded.choices:
        assert choice.logprobs and choice.logprobs.content
        mine = live[choice.index]
        assert mine["text"] == choice.message.content and mine["reason"] == choice.finish_reason
        assert [score.token for score in mine["scores"]] == [score.token for score in choice.logprobs.content]
        for one, other in zip(mine["scores"], choice.logprobs.content, strict=True):
            assert math.isclose(one.logprob, other.logprob, abs_tol=1e-3)
        raw = bytes(byte for score in choice.logprobs.content for byte in score.bytes or ())
        assert raw.decode(errors="replace") == choice.message.content
        for score in choice.logprobs.content:
            best = [top.logprob for top in score.top_logprobs]
            assert len(best) == 4 and best == sorted(best, reverse=True)
            assert score.logprob <= best[0] + 1e-6 <= 1e-6
    assert len({choice.message.content for choice in folded.choices}) == 3


def test_each_answer_is_what_its_seed_gives_alone(client: openai.OpenAI) -> None:
    folded = client.chat.completions.create(**ASK, n=3)
    alone = [client.chat.completions.create(**{**ASK, "seed": ASK["seed"] + at}) for at in range(3)]
    assert [choice.message.content for choice in folded.choices] == [one.choices[0].message.content for one in alone]
    assert folded.usage and all(one.usage for one in alone)
    assert folded.usage.prompt_tokens == alone[0].usage.prompt_tokens  # type: ignore[union-attr]
    spent = sum(one.usage.completion_tokens for one in alone)  # type: ignore[union-attr]
    assert folded.usage.completion_tokens == spent


def test_completions(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="tiny", prompt="Once", n=2, logprobs=2, seed=1, max_tokens=12)
    for choice in reply.choices:
        scores = choice.logprobs
        assert scores and scores.tokens and scores.top_logprobs and scores.text_offset and scores.token_logprobs
        assert len(scores.tokens) == len(scores.top_logprobs) == len(scores.text_offset) == len(scores.token_logprobs)
        assert scores.text_offset[0] == 0 and scores.text_offset == sorted(scores.text_offset)
        for token, top, at in zip(scores.tokens, scores.top_logprobs, scores.text_offset, strict=True):
            assert token in top and 2 <= len(top) <= 3
            if "\\" not in token:
                assert choice.text[at:].startswith(token)


def test_logprobs_are_of_the_model_not_of_the_sampler(client: openai.OpenAI) -> None:
    def first(**fields: Any) -> Any:
        reply = client.chat.completions.create(**{**ASK, "max_tokens": 1, "logprobs": True, "top_logprobs": 5} | fields)
        scores = reply.choices[0].logprobs
        assert scores and scores.content
        return scores.content[0]

    plain = first(temperature=0)
    assert plain.token == plain.top_logprobs[0].token
    for fields in ({"temperature": 0.2}, {"presence_penalty": 2.0, "temperature": 0}, {"top_p": 0.01}):
        assert [round(top.logprob, 3) for top in first(**fields).top_logprobs] == [
            round(top.logprob, 3) for top in plain.top_logprobs
        ]


def test_a_bias_forces_and_forbids(client: openai.OpenAI) -> None:
    forced = client.completions.create(model="tiny", prompt="Once", logit_bias={"70": 100}, max_tokens=5, logprobs=0)
    assert forced.choices[0].logprobs and len(set(forced.choices[0].logprobs.tokens or ())) == 1
    greedy: dict[str, Any] = {"model": "tiny", "prompt": "Once", "temperature": 0, "max_tokens": 1, "logprobs": 0}
    said = client.completions.create(**greedy).choices[0].logprobs
    assert said and said.tokens
    best = next(iter(said.top_logprobs[0]))  # type: ignore[index,arg-type]
    ids = [str(token) for token in range(400)]  # the tokenizer has fewer ids than the model
    left = client.completions.create(**greedy, logit_bias=dict.fromkeys(ids, -100)).choices[0].logprobs
    assert left is None or left.tokens != [best]


def test_ignore_eos_and_min_tokens(client: openai.OpenAI) -> None:
    ending = {"logit_bias": {str(EOS_ID): 100}, "max_tokens": 12}
    at_once = client.completions.create(model="tiny", prompt="Once", **ending)  # type: ignore[call-overload]
    assert at_once.choices[0].finish_reason == "stop" and at_once.usage.completion_tokens == 0
    least = client.completions.create(model="tiny", prompt="Once", extra_body={"min_tokens": 5}, **ending)  # type: ignore[call-overload]
    assert least.choices[0].finish_reason == "stop" and least.usage.completion_tokens == 5
    never = client.completions.create(model="tiny", prompt="Once", extra_body={"ignore_eos": True}, **ending)  # type: ignore[call-overload]
    assert never.choices[0].finish_reason == "length" and never.usage.completion_tokens == 12


def test_this_model_s_kv_cannot_be_quantised(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refusal:
            client.chat.completions.create(**ASK, stream=stream, extra_body={"kv_bits": 8})
        assert refusal.value.param == "kv_bits"


def test_more_answers_than_rows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(**ASK, n=9)
    assert refusal.value.param == "n"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """A model whose heads are wide enough to be quantised."""
    home = tmp_path_factory.mktemp("wide")
    path: Path = build(home / "tiny", "dense", head_dim=64, num_attention_heads=2, num_key_value_heads=1)
    with ServedDaemon(home / "state", ["--model", str(path)]) as served:
        served.wait_ready()
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0, timeout=60) as sdk:
            yield sdk


def test_quantised_kv(wide: openai.OpenAI) -> None:
    def scores(**fields: Any) -> list[float]:
        forced = {"logit_bias": {"70": 100}}  # a token with text, whatever a random model would say
        asked = {**ASK, **forced, "max_tokens": 1, "logprobs": True, "top_logprobs": 5}
        reply = wide.chat.completions.create(**asked, extra_body=fields)
        found = reply.choices[0].logprobs
        assert found and found.content
        return [top.logprob for top in found.content[0].top_logprobs]

    exact, eight = scores(), scores(kv_bits=8)
    assert exact != eight and max(abs(a - b) for a, b in zip(exact, eight, strict=True)) < 0.2
    assert scores(kv_bits=8, quantized_kv_start=10_000) == pytest.approx(exact, abs=1e-4)
    many = wide.chat.completions.create(**ASK, n=2, extra_body={"kv_bits": 8})
    assert len({choice.message.content for choice in many.choices}) == 2
    with pytest.raises(openai.BadRequestError, match="32 or 64"):
        scores(kv_bits=8, kv_group_size=128)
