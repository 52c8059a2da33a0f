"""The last token of a prompt is read with the rest where that is worth it, and only its own logits are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import qwen3

from inference.engine import prefill
from inference.engine.last_logits import LastLogits
from inference.engine.mlx_lm_door import make_prompt_cache
from inference.engine.settings import GRID_TOKENS
from inference.params import SamplingParams
from inference.ports import Job
from tests import tiny_models
from tests.engine.harness import Loaded, job, run, teacher_forced_gap

CLOSE = 5e-4
LENGTHS = (1, 2, 100, 256, 257, 258, 512, 513, 700)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a model of many layers, whose last piece is always short beside them."""
    monkeypatch.setattr(prefill, "_TOKENS_PER_NARROW_LAYER", GRID_TOKENS)


def given(loaded: Loaded, jobs: Sequence[Job], monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What each call of the model was given while jobs ran, (rows, tokens)."""
    calls: list[tuple[int, ...]] = []
    runner = loaded.runner()
    kind = type(loaded.model)
    original = kind.__call__

    def counted(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(inputs.shape)
        return original(self, inputs, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "__call__", counted)
        outcomes = run(runner, jobs)
    assert [len(outcomes[one.id].tokens) for one in jobs] == [one.max_tokens for one in jobs]
    told = [progress for outcome in outcomes.values() for progress in outcome.progress]
    assert sum(progress.computed_tokens for progress in told) == len(jobs[0].prompt)
    assert told[-1].done_tokens == told[-1].total_tokens
    return calls


def in_pieces(tokens: int) -> list[tuple[int, int]]:
    return [(1, min(GRID_TOKENS, tokens - start)) for start in range(0, tokens, GRID_TOKENS)]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("length", LENGTHS)
def test_a_plain_row_is_read_to_its_end(dense: Loaded, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    one = job("a", tiny_models.prompt_ids(length), max_tokens=3)
    assert given(dense, [one], monkeypatch) == [*in_pieces(length), (1, 1), (1, 1), (1, 1)]


def test_a_long_last_piece_leaves_its_last_token_to_decode(dense: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 16 * len(make_prompt_cache(dense.model))
    monkeypatch.setattr(prefill, "_TOKENS_PER_NARROW_LAYER", 16)
    for length, fed in ((256 + most, [(1, most)]), (256 + most + 1, [(1, most), (1, 1)])):
        one = job("a", tiny_models.prompt_ids(length), max_tokens=2)
        assert given(dense, [one], monkeypatch) == [(1, 256), *fed, (1, 1), (1, 1)]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("architecture", ["hybrid", "sliding"])
def test_other_states_leave_it_to_decode(
    load: Callable[[str], Loaded], monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    one = job("a", tiny_models.prompt_ids(300), max_tokens=2)
    assert given(load(architecture), [one], monkeypatch) == [(1, 256), (1, 43), (1, 1), (1, 1), (1, 1)]


@pytest.mark.usefixtures("always")
def test_forks_draw_from_a_state_they_all_have_read(dense: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    one = job("a", tiny_models.prompt_ids(300), max_tokens=2)
    calls = given(dense, [one, replace(one, id="b", fork_of="a")], monkeypatch)
    assert calls == [(1, 256), (1, 43), (2, 1), (2, 1), (2, 1)]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("architecture", ["dense", "moe"])
@pytest.mark.parametrize("length", LENGTHS)
def test_what_is_drawn_behind_it_is_what_a_plain_pass_gives(
    load: Callable[[str], Loaded], architecture: str, length: int
) -> None:
    assert teacher_forced_gap(load(architecture), job("a", tiny_models.prompt_ids(length), max_tokens=4)) < CLOSE


@pytest.mark.usefixtures("always")
def test_a_seed_draws_the_same_either_way(dense: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = SamplingParams(temperature=1.0, seed=7, repetition_penalty=1.3)
    one = replace(job("a", tiny_models.prompt_ids(300), sampling=sampling, max_tokens=12), top_logprobs=2)
    together = run(dense.runner(), [one])["a"]
    monkeypatch.setattr(prefill, "_TOKENS_PER_NARROW_LAYER", 0)
    apart = run(dense.runner(), [one])["a"]
    assert together.tokens == apart.tokens
    assert [entry.logprob for entry in together.logprobs] == pytest.approx(
        [entry.logprob for entry in apart.logprobs], abs=CLOSE
    )


@pytest.mark.usefixtures("always")
def test_logits_of_another_token_are_noticed(dense: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LastLogits.__call__
    monkeypatch.setattr(LastLogits, "__call__", lambda self, model, ids, cache: original(self, model, ids, cache) * 0.5)
    assert teacher_forced_gap(dense, job("a", tiny_models.prompt_ids(300), max_tokens=4)) > 200 * CLOSE


# --- the last layer -------------------------------------------------------------------------------------------------


def both_ways(model: Any) -> tuple[np.ndarray, np.ndarray, LastLogits]:
    """The last token's logits among those of all, and alone."""
    ids, last = mx.array([tiny_models.prompt_ids(40)]), LastLogits(model)
    every = model(ids, cache=make_prompt_cache(model))[:, -1, :]
    return np.array(every), np.array(last(model, ids, make_prompt_cache(model))), last


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_every_class_of_model_is_narrowed_and_left_as_it_was(load: Callable[[str], Loaded], architecture: str) -> None:
    model = load(architecture).model
    every, alone, last = both_ways(model)
    assert last.narrows
    assert np.abs(every - alone).max() < CLOSE
    assert model(mx.array([[5, 6, 7]]), cache=make_prompt_cache(model)).shape[1] == 3


def test_an_embedding_that_is_the_last_layer_too(dense: Loaded) -> None:
    tied = {**tiny_models.CONFIGS["dense"], "tie_word_embeddings": True}
    every, alone, last = both_ways(qwen3.Model(qwen3.ModelArgs.from_dict(tied)))
    assert last.narrows
    assert np.abs(every - alone).max() < CLOSE


def test_a_model_that_computes_all_logits_is_found_out(dense: Loaded) -> None:
    class Wordy(type(dense.model)):  # type: ignore[misc]
        def __call__(self, inputs: Any, cache: Any = None) -> Any:
            return self.model(inputs, cache) @ self.lm_head.weight.T

    model = Wordy(dense.model.args)
    every, alone, last = both_ways(model)
    assert not last.narrows
    assert np.abs(every - alone).max() < CLOSE


# --- the last block -------------------------------------------------------------------------------------------------


class Noting(nn.Module):  # type: ignore[misc]
    """Notes how many tokens a part of a model is given."""

    def __init__(self, part: nn.Module, given: list[int]) -> None:
        super().__init__()
        self.part = part
        self._given = given

    def __call__(self, hidden: Any) -> Any:
        self._given.append(hidden.shape[1])
        return self.part(hidden)


@pytest.mark.parametrize("architecture", ["dense", "moe", "sliding", "hybrid"])
def test_the_feed_forward_part_of_the_last_block_is_given_one_token(
    load: Callable[[str], Loaded], monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    model = load(architecture).model
    last = LastLogits(model)
    assert last.narrows_block
    given: list[int] = []
    for block in (model.layers[0], model.layers[-1]):
        monkeypatch.setitem(block, "mlp", Noting(block.mlp, given))
    last(model, mx.array([tiny_models.prompt_ids(40)]), make_prompt_cache(model))
    assert given == [40, 1]


class Mixing(qwen3.TransformerBlock):  # type: ignore[misc]
    """What it gives of a token depends, be it ever so little, on the feed-forward parts of those before it."""

    def __call__(self, x: Any, mask: Any = None, cache: Any = None) -> Any:
        given = super().__call__(x, mask, cache)
        return given + 1e-4 * mx.cumsum(given, axis=1)


class Shifting(nn.Module):  # type: ignore[misc]
    """A feed-forward part that reads a little of the token before."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def __call__(self, hidden: Any) -> Any:
        before = mx.concatenate([mx.zeros_like(hidden[:, :1]), hidden[:, :-1]], axis=1)
        return self.part(hidden + 1e-4 * before)


class ShiftingBlock(qwen3.TransformerBlock):  # type: ignore[misc]
    def __init__(self, args: Any) -> None:
        super().__init__(args)
        self["mlp"] = Shifting(self["mlp"])


class Strict(qwen3.TransformerBlock):  # type: ignore[misc]
    """Takes no broadcast."""

    def __call__(self, x: Any, mask: Any = None, cache: Any = None) -> Any:
        h = x + self.self_attn(self.input_layernorm(x), mask, cache)
        return mx.stack([h, self.mlp(self.post_attention_layernorm(h))]).sum(axis=0)


@pytest.mark.parametrize("kind", [Mixing, ShiftingBlock, Strict])
def test_a_block_that_needs_all_tokens_keeps_them(dense: Loaded, kind: type[nn.Module]) -> None:
    model = qwen3.Model(dense.model.args)
    model.layers[-1] = kind(dense.model.args)
    every, alone, last = both_ways(model)
    assert last.narrows
    assert not last.narrows_block
    assert np.abs(every - alone).max() < CLOSE
