"""A row made of stored blocks goes on as a cold one: bitwise from the grid, to rounding from anywhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from inference.engine import kv
from inference.engine.blocks import store_needs
from inference.engine.kv_columns import attention_leaves, held, recurrent_leaves, token_arrays
from inference.engine.loader import MlxLoader
from inference.engine.mlx_lm_door import make_prompt_cache
from inference.engine.prefill import pieces
from inference.engine.runner import MlxRunner
from inference.engine.settings import EngineSettings
from inference.ports import ModelRef
from tests import tiny_models
from tests.engine.stored_rows import (
    CLOSE,
    Answer,
    RecordedRow,
    Stored,
    answer,
    bits,
    continued,
    read_and_store,
    resumed,
    same_bits,
)

IDS = tiny_models.prompt_ids(900)
OFF_GRID = (1, 39, 300, 511, 899)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in tiny_models.ARCHITECTURES},
    "window_128": ("sliding_sinks", {"sliding_window": 128}),
    "window_256": ("sliding", {"sliding_window": 256}),
    "window_300": ("sliding", {"sliding_window": 300}),
    "listed": ("", {}),
}
LISTED: dict[str, Any] = {
    "model_type": "falcon_h1",
    "hidden_size": 48,
    "intermediate_size": 96,
    "head_dim": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": tiny_models.VOCAB_SIZE,
    "mamba_d_ssm": 64,
    "mamba_d_head": 16,
    "mamba_n_heads": 4,
    "mamba_d_state": 16,
    "attention_out_multiplier": 1.0,
    "embedding_multiplier": 1.0,
    "key_multiplier": 1.0,
    "lm_head_multiplier": 1.0,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}
"""Attention and recurrence side by side in each layer: its cache entries are lists of both."""


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    @cache
    def loaded(kind: str) -> Any:
        directory, (architecture, changes) = tmp_path_factory.mktemp(kind), KINDS[kind]
        if architecture:
            tiny_models.build(directory, architecture, **changes)
        else:
            (directory / "config.json").write_text(json.dumps(LISTED))
            tiny_models._write_weights(directory / "model.safetensors", LISTED, seed=7)
        runner = MlxLoader(EngineSettings()).load(ModelRef(kind, directory))
        assert isinstance(runner, MlxRunner)
        return runner._model

    return loaded


@pytest.fixture(scope="module")
def stored_of(model_of: Callable[[str], Any]) -> Callable[[str], Stored]:
    return cache(lambda kind: read_and_store(model_of(kind), IDS, snapshots_at=(256, 512, 768)))


@pytest.fixture(scope="module")
def cold_of(model_of: Callable[[str], Any]) -> Callable[[str], Answer]:
    @cache
    def cold(kind: str) -> Answer:
        drawn = answer(model_of(kind), IDS)
        assert len(set(drawn.tokens)) > 12, "a model that repeats itself would hide faults"
        return drawn

    return cold


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_cover_the_text_and_hold_nothing_else(
    model_of: Callable[[str], Any], stored_of: Callable[[str], Stored], kind: str
) -> None:
    blocks = stored_of(kind).blocks
    assert [(block.start, block.end, block.tokens) for block in blocks] == [
        (0, 256, 256), (256, 512, 256), (512, 768, 256), (768, 900, 132),
    ]  # fmt: skip
    state = make_prompt_cache(model_of(kind))
    model_of(kind)(mx.array([[1]]), cache=state)
    per_token = sum(a[:, :, :1].nbytes for entry in attention_leaves(state) for a in token_arrays(entry))
    assert [block.nbytes for block in blocks] == [per_token * block.tokens for block in blocks]


@pytest.mark.parametrize("depth", [256, 512, 768])
@pytest.mark.parametrize("kind", KINDS)
def test_from_the_grid_not_one_bit_differs(
    model_of: Callable[[str], Any],
    stored_of: Callable[[str], Stored],
    cold_of: Callable[[str], Answer],
    kind: str,
    depth: int,
) -> None:
    model = model_of(kind)
    cold, warm = cold_of(kind), answer(model, IDS, resumed(model, stored_of(kind), depth), depth)
    assert warm.tokens == cold.tokens
    assert np.array_equal(warm.logprobs, cold.logprobs)


@pytest.mark.parametrize("depth", OFF_GRID)
@pytest.mark.parametrize("kind", KINDS)
def test_from_inside_a_block_only_rounding_differs(
    model_of: Callable[[str], Any],
    stored_of: Callable[[str], Stored],
    cold_of: Callable[[str], Answer],
    kind: str,
    depth: int,
) -> None:
    model, stored = model_of(kind), stored_of(kind)
    if store_needs(make_prompt_cache(model)).snapshots:  # a recurrent state exists only where it was taken
        stored = read_and_store(model, IDS, snapshots_at=(depth,))
    cold, warm = cold_of(kind), answer(model, IDS, resumed(model, stored, depth), depth)
    assert warm.tokens == cold.tokens
    assert warm.gap(cold) < CLOSE


@pytest.mark.parametrize("room", [0, 700, 5000])
@pytest.mark.parametrize("kind", ["dense", "hybrid", "sliding"])
def test_an_assembled_row_is_the_row_of_a_cold_prefill(
    model_of: Callable[[str], Any], stored_of: Callable[[str], Stored], kind: str, room: int
) -> None:
    """Entry by entry: what is held, at which offset, and room for what was asked."""
    model, cold = model_of(kind), make_prompt_cache(model_of(kind))
    for first, last in pieces(0, 512):
        model(mx.array(IDS[first:last])[None], cache=cold)
    warm = resumed(model, stored_of(kind), 512, room=room)
    for left, right in zip(attention_leaves(cold), attention_leaves(warm), strict=True):
        assert type(left) is type(right) and left.offset == right.offset == 512
        tokens = getattr(right, "max_size", 512)
        assert held(right, 0).first == 512 - tokens
        for one, other in zip(token_arrays(left), token_arrays(right), strict=True):
            cut, same = (held(e, 0).cut(a, 0, 512 - tokens, 512) for e, a in ((left, one), (right, other)))
            assert np.array_equal(np.array(cut), np.array(same))
            assert other.shape[2] == tokens if tokens < 512 else other.shape[2] >= 512 + max(room, 1)
    for left, right in zip(recurrent_leaves(cold), recurrent_leaves(warm), strict=True):
        assert all(np.array_equal(np.array(a), np.array(b)) for a, b in zip(left.cache, right.cache, strict=True))


@pytest.mark.parametrize("kind", ["dense", "hybrid", "sliding", "sliding_sinks", "window_300"])
def test_a_branch_and_an_edit_reuse_what_stands_before_them(
    model_of: Callable[[str], Any],
    stored_of: Callable[[str], Stored],
    cold_of: Callable[[str], Answer],
    kind: str,
) -> None:
    model = model_of(kind)
    for depth in (512, 256) if store_needs(make_prompt_cache(model)).snapshots else (512, 300, 47):
        other = (*IDS[:depth], *tiny_models.prompt_ids(333, seed=depth))
        cold, warm = answer(model, other), answer(model, other, resumed(model, stored_of(kind), depth), depth)
        assert warm.tokens == cold.tokens and warm.gap(cold) < CLOSE
        assert warm.tokens != cold_of(kind).tokens


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_turn_goes_on_from_blocks_made_in_decode(model_of: Callable[[str], Any], kind: str) -> None:
    """Three turns: each ends inside a block, and the next is made of all that the one before left behind."""
    model, text, stored = model_of(kind), tiny_models.prompt_ids(300), None
    for turn in range(3):
        row = RecordedRow(model) if stored is None else continued(model, stored, len(stored.ids))
        if stored is not None:
            row.blocks = stored.blocks[: row.offset // 256]
        row.read(text, len(text) - 1)
        text = (*text, *row.write(text[-1], 150))
        stored = row.store(text)
        assert [block.end for block in stored.blocks] == [*range(256, row.offset, 256), row.offset]
        text = (*text, *tiny_models.prompt_ids(20, seed=turn))
        depth = len(stored.ids)
        cold, warm = answer(model, text), answer(model, text, resumed(model, stored, depth), depth)
        assert warm.tokens == cold.tokens and warm.gap(cold) < CLOSE


@pytest.mark.parametrize("kind", ["dense", "hybrid", "sliding", "window_300"])
def test_two_rows_of_one_block_set_decode_together_and_leave_it_alone(
    model_of: Callable[[str], Any], stored_of: Callable[[str], Stored], kind: str
) -> None:
    model, stored = model_of(kind), stored_of(kind)
    before = bits(stored.blocks)
    texts = [(*IDS[:512], *tiny_models.prompt_ids(length, seed=length)) for length in (40, 90)]
    expected = [answer(model, text).tokens for text in texts]
    states = [resumed(model, stored, 512) for _ in texts]
    for text, state in zip(texts, states, strict=True):
        for first, last in pieces(512, len(text) - 1):
            model(mx.array(text[first:last])[None], cache=state)
    lane, last, drawn = kv.merge(states), [text[-1] for text in texts], [[] for _ in texts]
    for _ in range(24):
        last = mx.argmax(model(mx.array(last)[:, None], cache=lane)[:, -1], axis=-1).tolist()
        for tokens, token in zip(drawn, last, strict=True):
            tokens.append(token)
    assert drawn == expected
    assert same_bits(before, bits(stored.blocks))
