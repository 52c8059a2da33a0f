"""Packing, comparing and hashing of blocks, and the map that finds the longest common prefix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.cache.blocks import Root, chain_hash, common_tokens, pack, root_key, token_count
from inference.cache.prefix_map import PrefixMap
from tests.cache_driver import common

RUNS = st.lists(st.sampled_from([0, 1, 256, 2**24, 2**32 - 1]), max_size=12).map(tuple)


@given(one=RUNS, other=RUNS)
def test_common_tokens_is_what_counting_finds(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert common_tokens(pack(one), pack(other)) == common(one, other)


@given(held=st.sets(RUNS, max_size=20), sought=RUNS)
def test_the_nearest_key_shares_as_much_as_any(held: set[tuple[int, ...]], sought: tuple[int, ...]) -> None:
    table: PrefixMap[tuple[int, ...]] = PrefixMap()
    for run in held:
        table.set(pack(run), run)
    best, shared = table.nearest(pack(sought))
    assert shared == max((common(run, sought) for run in held), default=0)
    assert (best is None) == (shared == 0)
    if best is not None:
        assert common(best, sought) == shared
    assert table.begins_with(pack(sought)) == any(run[: len(sought)] == sought for run in held)


@given(held=st.lists(RUNS, min_size=1, max_size=20, unique=True), gone=st.data())
def test_a_popped_key_is_not_found_again(held: list[tuple[int, ...]], gone: st.DataObject) -> None:
    table: PrefixMap[tuple[int, ...]] = PrefixMap()
    for run in held:
        table.set(pack(run), run)
    run = gone.draw(st.sampled_from(held))
    assert table.pop(pack(run)) == run
    assert table.get(pack(run)) is None and len(table) == len(held) - 1
    with pytest.raises(KeyError):
        table.pop(pack(run))


def test_an_id_that_does_not_fit_is_refused() -> None:
    with pytest.raises(OverflowError):
        pack((1, -1))
    with pytest.raises(OverflowError):
        pack((2**32,))
    assert token_count(pack((1, 2, 3))) == 3


def test_the_chain_depends_on_everything_before_and_on_how_it_was_cut() -> None:
    root = root_key("weights")
    one, two = pack((1,)), pack((2,))
    names = {
        chain_hash(root, one),
        chain_hash(root, two),
        chain_hash(root, one + two),
        chain_hash(chain_hash(root, one), two),
        chain_hash(chain_hash(root, two), two),
        chain_hash(root, one, extra=two),
        chain_hash(root_key("weights", b"salt"), one),
        chain_hash(root_key("weightssalt"), one),
        chain_hash(root_key("other"), one),
    }
    assert len(names) == 9 and all(len(name) == 32 for name in names)


def test_a_root_is_named_by_what_kv_depends_on_and_nothing_else() -> None:
    base = Root("id", "weights", settings="kv")
    assert base.key == Root("other id", "weights", settings="kv", template="t", token_cost=9.0).key
    different = [
        Root("id", "w2", settings="kv"),
        Root("id", "weights"),
        Root("id", "weights", settings="kv", salt=b"s"),
    ]
    assert len({base.key, *(root.key for root in different)}) == 4
