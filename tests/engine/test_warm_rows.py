"""Warm equals cold: whatever was stored before, a row draws what it would have drawn alone, and computes no more.

One law holds for all scenarios and for every class of model: same tokens, same log-probabilities, and of each prompt
exactly what brute force finds necessary is computed (models with recurrent layers excepted: they resume at snapshots).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inference.cache.reuse import ReuseMode
from inference.engine.loader import MlxLoader
from inference.engine.runner import MlxRunner
from inference.engine.settings import GRID_TOKENS, EngineSettings
from inference.params import CacheScope, KVQuantisation, SamplingParams
from inference.ports import ModelRef
from inference.tokens import Prompt, TokenIds
from tests import tiny_models
from tests.engine.harness import Loaded
from tests.engine.scenarios import SCENARIOS, Scenario, agents, branch, lane, law, linear, long_answer, stopped
from tests.engine.warm_rows import SCOPE, WarmModel, ask

CLASSES = ("dense", "hybrid", "hybrid_moe", "sliding", "sliding_sinks")
HYBRIDS = ("hybrid", "hybrid_moe")
ids = tiny_models.prompt_ids
each_class = pytest.mark.parametrize("architecture", CLASSES)
Load = Callable[[str], Loaded]


def cases(chosen: tuple[Callable[[], Scenario], ...], fewer: tuple[Callable[[], Scenario], ...]) -> Any:
    """(class, scenario): the mixtures of experts among the classes play the fewer."""
    pairs = [(name, one) for name in CLASSES for one in (fewer if name in ("hybrid_moe", "sliding_sinks") else chosen)]
    names = [f"{name}-{one.__name__}" for name, one in pairs]
    return pytest.mark.parametrize(("architecture", "scenario"), pairs, ids=names)


@cases(SCENARIOS, (linear, lane))
def test_warm_is_cold(load: Load, architecture: str, scenario: Callable[[], Scenario]) -> None:
    law(WarmModel(load(architecture)), scenario, exact=architecture not in HYBRIDS)


@pytest.mark.parametrize("scenario", [linear, stopped], ids=lambda one: one.__name__)
def test_a_conversation_with_recurrent_layers_pays_for_nothing_twice(
    load: Load, scenario: Callable[[], Scenario]
) -> None:
    """The state is kept at the end of each answer, behind the stop token where there was one."""
    assert all(one.waste == 0 for one in law(WarmModel(load("hybrid")), scenario, exact=False))


@cases((linear, branch), (agents,))
def test_bitwise_warm_is_cold_in_every_bit(load: Load, architecture: str, scenario: Callable[[], Scenario]) -> None:
    told = law(WarmModel(load(architecture), mode=ReuseMode.BITWISE), scenario, exact=False)
    assert all(one.gap == 0 for one in told)
    reused = [len(one.answer.job.prompt) - one.answer.computed for one in told]
    assert any(reused) and all(tokens % GRID_TOKENS == 0 for tokens in reused)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """MLX quantises groups of at least 32 values; the heads of the tiny models have 16."""
    path = tiny_models.build(tmp_path_factory.mktemp("wide"), "dense", head_dim=32, num_attention_heads=2)
    runner = MlxLoader(EngineSettings()).load(ModelRef("wide", path))
    assert isinstance(runner, MlxRunner)
    return Loaded(runner._model, runner.limits)


@pytest.mark.parametrize("start_tokens", [0, 200, 256, 300])
@pytest.mark.parametrize("scenario", [linear, branch, long_answer], ids=lambda one: one.__name__)
def test_quantised_rows(wide: Loaded, scenario: Callable[[], Scenario], start_tokens: int) -> None:
    """A value between two levels falls to either side by its rounding: 7e-4 with a BLAS of another order of sums."""
    law(WarmModel(wide), scenario, exact=True, close=1e-2, kv=KVQuantisation(8, 32, start_tokens))


def test_rows_quantised_otherwise_never_meet(wide: Loaded) -> None:
    """The same ids and weights: KV of other bits, groups or beginnings is other KV."""
    warm, kept = WarmModel(wide), KVQuantisation(8, 32, 0)
    warm.ask(ask("mine", ids(600), kv=kept))
    others = (None, KVQuantisation(4, 32, 0), KVQuantisation(8, 64, 0), KVQuantisation(8, 32, 256))
    found = [warm.runner.lookup(Prompt(ids(600)), SCOPE, kv).cached_tokens for kv in (kept, *others)]
    assert found == [599, 0, 0, 0, 0]


@each_class
def test_seeded_draws_do_not_depend_on_the_store(load: Load, architecture: str) -> None:
    warm = WarmModel(load(architecture))
    sampling = SamplingParams(temperature=1.0, top_p=0.9)
    text: TokenIds = ids(300, seed=8)
    for turn in range(3):
        answer = warm.ask(one := ask(f"t{turn}", text, sampling=sampling))
        assert answer.tokens == warm.cold(one).tokens
        text = (*answer.ids, *ids(50, seed=turn))


def test_requests_that_share_nothing_leave_nothing(dense: Loaded) -> None:
    warm = WarmModel(dense)
    for turn in range(2):
        assert warm.ask(ask(f"t{turn}", ids(400), scope=None)).computed == 400
    assert warm.cache.stats().block_bytes == 0


@pytest.mark.parametrize("other", [CacheScope(salt=b"another key"), CacheScope(salt=b"another key", template="chat")])
def test_another_salt_never_meets(dense: Loaded, other: CacheScope) -> None:
    warm = WarmModel(dense)
    warm.ask(ask("mine", ids(600)))
    assert warm.ask(ask("theirs", ids(600), scope=other)).computed == 600
    assert warm.ask(ask("mine again", ids(600), scope=SCOPE)).computed == 1
    assert warm.ask(ask("theirs again", ids(600), scope=other)).computed == 1
