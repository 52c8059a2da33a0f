"""What the store costs while nothing runs: the bytes of distinct tokens, and no buffer beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from inference.engine import memory
from tests import tiny_models
from tests.engine.harness import Loaded
from tests.engine.warm_rows import WarmModel, ask

BRANCHES = 12
PREFIX = tiny_models.prompt_ids(4296, seed=90)


def token_bytes(architecture: str) -> int:
    """Keys and values of one token in float32, in all layers: rings are stored with every token they had."""
    config = tiny_models.CONFIGS[architecture]
    return 2 * 4 * int(config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"])


@pytest.mark.parametrize(("architecture", "length"), [("dense", 4096), ("dense", 4296), ("sliding", 4296)])
def test_twelve_branches_cost_one_prefix(load: Callable[[str], Loaded], architecture: str, length: int) -> None:
    """Active memory - what was there before <= 1.05 x the KV of the distinct tokens, each held once."""
    prefix, loaded = PREFIX[:length], load(architecture)
    warm = WarmModel(loaded)
    memory.release_unused()
    before = memory.read_device(0).active_bytes
    for at in range(BRANCHES):
        warm.ask(ask(f"b{at}", (*prefix, *tiny_models.prompt_ids(50, seed=91 + at)), max_tokens=12))
    memory.release_unused()
    held = memory.read_device(0).active_bytes - before
    stats = warm.cache.stats()
    distinct = len(prefix) + BRANCHES * (50 + 12)
    assert sum(model.tokens for model in stats.models) <= distinct
    assert stats.block_bytes <= held <= 1.05 * distinct * token_bytes(architecture)
    assert warm.runner.kv_bytes == 0


def test_states_are_held_under_their_own_budget(load: Callable[[str], Loaded]) -> None:
    warm = WarmModel(load("hybrid"))
    memory.release_unused()
    before = memory.read_device(0).active_bytes
    for at in range(3):
        prompt = (*PREFIX[:1500], *tiny_models.prompt_ids(50, seed=91 + at))
        warm.ask(ask(f"b{at}", prompt, max_tokens=4))
    memory.release_unused()
    held = memory.read_device(0).active_bytes - before
    stats = warm.cache.stats()
    assert stats.block_bytes <= held - stats.snapshot_bytes <= 1.05 * stats.block_bytes
