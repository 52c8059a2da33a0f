"""The less common fields of a request: what becomes of each, and under which names."""

from __future__ import annotations

from typing import Any

import pytest

from inference.events import TokenLogprob
from inference.params import GenerationParams, KVQuantisation
from inference.scheduler.budget import held_tokens
from mlxd.api.errors import InvalidField
from mlxd.api.logit_bias import read_bias
from mlxd.api.logprobs import TextLogprobs
from mlxd.api.sampling import generation_params
from mlxd.api.schemas import ChatRequest, CompletionRequest
from mlxd.api.validate import validate


def of_chat(**fields: Any) -> GenerationParams:
    return generation_params(validate(ChatRequest, {"messages": [{"role": "user", "content": "x"}], **fields}), {}, {})


def of_completion(configured: dict[str, Any] | None = None, **fields: Any) -> GenerationParams:
    return generation_params(validate(CompletionRequest, {"prompt": "x", **fields}), configured or {}, {})


def test_nothing_asked_is_nothing_changed() -> None:
    plain = of_completion()
    assert (plain.n, plain.min_tokens, plain.ignore_eos) == (1, 0, False)
    assert plain.top_logprobs is None and plain.kv is None and plain.sampling.logit_bias == ()


def test_answers_and_their_least_length() -> None:
    asked = of_completion(n=3.0, min_tokens=4, ignore_eos=True)
    assert (asked.n, asked.min_tokens, asked.ignore_eos) == (3, 4, True)


def test_logprobs_in_both_dialects() -> None:
    assert of_chat(logprobs=True).top_logprobs == 0
    assert of_chat(logprobs=True, top_logprobs=20).top_logprobs == 20
    assert of_chat(logprobs=False).top_logprobs is None
    assert of_chat(top_logprobs=0).top_logprobs is None
    assert of_completion(logprobs=0).top_logprobs == 0
    assert of_completion(logprobs=5).top_logprobs == 5


@pytest.mark.parametrize("name", ["repetition_context_size", "repeat_last_n"])
def test_the_penalties_context(name: str) -> None:
    assert of_completion(**{name: 20}).sampling.penalty_context_tokens == 20
    assert of_completion(**{name: 0}).sampling.penalty_context_tokens == 0
    assert of_completion({"penalty_context_tokens": 64}, **{name: 20}).sampling.penalty_context_tokens == 20
    assert of_completion({"penalty_context_tokens": 64}).sampling.penalty_context_tokens == 64


def test_minus_one_is_the_whole_context() -> None:
    assert of_completion(repeat_last_n=-1).sampling.penalty_context_tokens >= 2**31


def test_quantised_kv() -> None:
    assert of_completion(kv_bits=8).kv == KVQuantisation(8, 64, 0)
    assert of_completion(kv_bits=4, kv_group_size=32, quantized_kv_start=5000).kv == KVQuantisation(4, 32, 5000)
    assert of_completion(kv_group_size=32).kv is None


def test_bias_by_token_id() -> None:
    assert read_bias({"0": 1.5, "99": -100}, 100) == ((0, 1.5), (99, -100))
    for key in ("100", "-1", "01", "+1", "1.0", " 1", "", "x", "1\n", "²", "1" * 5000):
        with pytest.raises(InvalidField) as refusal:
            read_bias({key: 1.0}, 100)
        assert refusal.value.param == "logit_bias" and "0 to 99" in refusal.value.message


class Blanks:
    def token_bytes(self, token: int) -> bytes:
        return b" " + bytes([token])


@pytest.mark.parametrize(("text", "offsets"), [("a b c", [0, 1, 3]), (" a b c", [0, 2, 4])])
def test_offsets_bear_an_opening_blank_that_is_not_shown(text: str, offsets: list[int]) -> None:
    found = [TokenLogprob(ord(letter), -1.0) for letter in "abc"]
    for at in range(1, 4):  # in pieces of any size
        written = TextLogprobs(Blanks(), 0)
        cut = 2 * at - (text[0] != " ")
        told = written.piece(found[:at], text[:cut])["text_offset"]
        assert told + written.piece(found[at:], text[cut:])["text_offset"] == offsets


@pytest.mark.parametrize(
    ("kv", "held"),
    [(None, 1000), (KVQuantisation(8), 532), (KVQuantisation(4, 32), 313), (KVQuantisation(8, 64, 800), 800)],
)
def test_memory_of_quantised_rows(kv: KVQuantisation | None, held: int) -> None:
    assert held_tokens(1000, kv) == held
    assert held_tokens(0, kv) == 0
