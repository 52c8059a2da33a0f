"""Conversations that part within one block: each draws what it would have drawn alone, whoever else stays or goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import pytest

from inference.engine.blocks import KVPart, capture, cut, join, joined
from inference.engine.kv_columns import KVMismatch
from inference.engine.packing import packed
from inference.tokens import TokenIds
from tests import tiny_models
from tests.engine.harness import Loaded
from tests.engine.scenarios import Scenario, law
from tests.engine.stored_rows import RecordedRow, bits, same_bits
from tests.engine.warm_rows import CLOSE, SCOPE, Answer, WarmModel, ask

Load = Callable[[str], Loaded]
ids = tiny_models.prompt_ids
DEPTHS = (560, 530, 599, 531)
"""Where the ways part, all within the block from 512 on, each behind and before others."""


def ways() -> Scenario:
    """Many ways from one trunk, and then all of them go on."""
    answers = yield [ask("trunk", ids(600))]
    trunk, texts = answers["trunk"].ids, list[TokenIds]()
    for way, at in enumerate(DEPTHS):
        answers = yield [ask(f"way{way}", (*trunk[:at], *ids(30 + 50 * (way % 3), seed=way)), max_tokens=4)]
        texts.append(answers[f"way{way}"].ids)
    for way, text in enumerate((trunk, *texts)):
        yield [ask(f"on{way}", (*text, *ids(40, seed=20 + way)), max_tokens=4)]


@pytest.mark.parametrize("architecture", ["dense", "hybrid", "sliding_sinks"])
def test_ways_that_part_within_a_block(load: Load, architecture: str) -> None:
    warm = WarmModel(load(architecture))
    law(warm, ways, exact=architecture != "hybrid")
    assert any(len(node.handle.parts) > 2 for leaf in warm.cache._store.tree.leaves for node in leaf.upwards())  # type: ignore[union-attr]


@pytest.mark.parametrize("goes", ["trunk", "way"])
@pytest.mark.parametrize("architecture", ["dense", "sliding"])
def test_one_goes_and_the_other_goes_on(load: Load, architecture: str, goes: str) -> None:
    warm, told = WarmModel(load(architecture)), dict[str, Answer]()
    texts = {"trunk": ids(600), "way": (*ids(600)[:560], *ids(50, seed=1))}
    for name, text in texts.items():
        told[name] = warm.ask(ask(name, text, scope=replace(SCOPE, session=name)))
    freed = warm.cache.clear(session=goes)
    assert len(freed) == 1 and freed[0].start == 512, "all of it but what the other goes through"
    stays = next(name for name in texts if name != goes)
    more = ask("more", (*told[stays].ids, *ids(20, seed=2)))
    answer = warm.ask(more)
    assert answer.computed == len(more.prompt) - len(told[stays].ids)
    assert answer.gap(warm.cold(more)) < CLOSE
    again = ask("again", (*told[goes].ids, 5))
    assert warm.ask(again).computed == len(again.prompt) - 560
    assert warm.cache.check_integrity() == []


def one_token_early(part: KVPart, at: int) -> tuple[KVPart, KVPart]:
    """Both halves begin one token before they should, and are as long as they should be."""
    stacks = [mx.roll(stack, 1, axis=2) for stack in part.packed.stacks]
    return HALVES(replace(part, packed=packed(stacks, part.packed.places)), at)


HALVES = KVPart.halves


@pytest.mark.parametrize("architecture", ["dense", "sliding"])
def test_a_split_at_a_wrong_depth_is_noticed(load: Load, monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    monkeypatch.setattr(KVPart, "halves", one_token_early)
    with pytest.raises(AssertionError):
        law(WarmModel(load(architecture)), ways, exact=True)


# --- blocks of parts ------------------------------------------------------------------------------------------------


def read(model: object, text: TokenIds) -> RecordedRow:
    row = RecordedRow(model)
    row.read(text, len(text))
    return row


@pytest.mark.parametrize("architecture", ["dense", "sliding"])
def test_a_block_of_parts_is_the_block_in_one(load: Load, architecture: str) -> None:
    whole = capture(read(load(architecture).model, ids(200)).state, 130, 200)
    parted = whole
    for tokens in (40, 10, 41, 69):
        parted = parted.parted(tokens)
        assert parted.parted(tokens) is parted is parted.parted(70)
    assert [part.tokens for part in parted.parts] == [10, 30, 1, 28, 1]
    assert (parted.start, parted.end, parted.nbytes) == (130, 200, whole.nbytes)
    assert same_bits(bits([parted]), bits([whole])) and same_bits(bits([join([parted, whole][:1])]), bits([whole]))
    for end in (135, 140, 171, 200):
        assert same_bits(bits([cut(parted, end)]), bits([cut(whole, end)]))
    for tokens in (0, -1, 71):
        with pytest.raises(KVMismatch):
            whole.parted(tokens)


def test_a_block_takes_over_the_parts_of_another(load: Load) -> None:
    model = load("dense").model
    one, other = (capture(read(model, (*ids(150), *ids(50, seed=seed))).state, 100, 200) for seed in (1, 2))
    parted = one.parted(50)
    taken = other.sharing(parted, 50)
    assert taken.parts[0] is parted.parts[0] and taken.parts[1].nbytes == other.nbytes // 2
    assert same_bits(bits([taken]), bits([other]))
    again = other.parted(50)
    assert again.sharing(parted, 50).parts[1] is again.parts[1], "nothing is copied where it is parted already"
    joined_at, foreign = joined(taken), capture(read(load("sliding").model, ids(200)).state, 100, 200)
    assert joined_at is not joined(taken) and joined(one) is one.parts[0].packed
    for block, tokens in ((one, 50), (parted, 40), (parted, 100), (foreign.parted(50), 50)):
        with pytest.raises(KVMismatch):
            other.sharing(block, tokens)
