"""What a prompt reads from the disk, against an oracle that compares it with every stored text token by token."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.cache.disk_fetch import fetch
from inference.cache.disk_plan import WORTH_READING_TOKENS, forecast, may_help, plan
from inference.tokens import TokenIds
from tests.disk_shelf import ROOT, Shelf, chain, paper, state, want

LENGTHS = st.sampled_from([1, 17, 100, 255, 256, 257, 300, 511, 512, 513, 700, 768, 900])


@st.composite
def texts(draw: st.DrawFn) -> list[TokenIds]:
    """Texts that begin alike and part anywhere."""
    made: list[TokenIds] = []
    for number in range(draw(st.integers(1, 5))):
        base = draw(st.sampled_from(made))[: draw(LENGTHS)] if made and draw(st.booleans()) else ()
        length = max(len(base), draw(LENGTHS))
        made.append((*base, *(10_000 * (number + 1) + at for at in range(len(base), length))))
    return made


def common(one: TokenIds, other: TokenIds) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@given(stored=texts(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_plan_reaches_as_far_as_anything_stored(stored: list[TokenIds], data: st.DataObject) -> None:
    whose = data.draw(st.sampled_from(stored))
    prompt = (*whose[: data.draw(LENGTHS)], *range(7, 7 + data.draw(st.integers(0, 600))))
    with TemporaryDirectory() as directory:
        shelf = Shelf(Path(directory))
        for text in stored:
            shelf.write(chain(text))
        in_memory = data.draw(st.integers(0, max(0, common(prompt, whose) - 1)))
        asked = want(prompt, in_memory=in_memory)
        best = max(min(common(prompt, text), len(prompt) - 1) for text in stored)
        found = fetch(shelf.store, "job", asked)
        if best - in_memory < WORTH_READING_TOKENS:
            assert found.blocks == ()
            return
        assert may_help(shelf.store.index, asked)
        assert plan(shelf.store.index, asked, shelf.store.ids).until == best
        read = (len(asked.digests) - 1) * 256 + sum(
            common_in(block.label.ids, prompt, block.label.start) for block in found.blocks
        )
        assert min(read, len(prompt) - 1) == best
        assert [block.label.start for block in found.blocks] == list(
            range((len(asked.digests) - 1) * 256, best, 256)
        ), "block by block, from the end of what is in memory"
        assert all(block.handle == paper(block.label) for block in found.blocks)


@given(stored=texts(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_names_alone_tell_all_but_the_end_of_a_block_that_goes_on_differently(
    stored: list[TokenIds], data: st.DataObject
) -> None:
    whose = data.draw(st.sampled_from(stored))
    prompt = (*whose[: data.draw(LENGTHS)], *range(7, 7 + data.draw(st.integers(0, 600))))
    with TemporaryDirectory() as directory:
        shelf = Shelf(Path(directory))
        for text in stored:
            shelf.write(chain(text))
        for entry in shelf.store.index:
            entry.ids = None  # as after a start
        asked = want(prompt)
        foreseen, planned = forecast(shelf.store.index, asked), plan(shelf.store.index, asked, shelf.store.ids)
        assert planned.until - 256 < foreseen.until <= planned.until
        if foreseen and prompt[: len(whose)] == whose and foreseen.until == len(whose):
            assert planned == foreseen and foreseen.at_end != any(
                text != whose and text[: len(whose) // 256 * 256] == whose for text in stored
            )


def common_in(packed: bytes, prompt: TokenIds, start: int) -> int:
    ids = tuple(memoryview(packed).cast("I"))
    return common(ids, prompt[start:])


@given(stored=texts(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_model_with_states_reads_to_the_deepest_and_no_further(stored: list[TokenIds], data: st.DataObject) -> None:
    whose = data.draw(st.sampled_from(stored))
    prompt = (*whose[: data.draw(LENGTHS)], 7, 7, 7)
    with TemporaryDirectory() as directory:
        shelf = Shelf(Path(directory))
        states = []
        for text in stored:
            shelf.write(chain(text))
            states += [text[:depth] for depth in data.draw(st.lists(LENGTHS, max_size=3)) if depth <= len(text)]
        shelf.write([state(text) for text in states])
        asked = want(prompt, in_memory=data.draw(st.integers(0, common(prompt, whose) // 2)), state=True)
        fitting = [len(text) for text in states if len(text) < len(prompt) and prompt[: len(text)] == text]
        best = max(fitting, default=0)
        found = fetch(shelf.store, "job", asked)
        if best < WORTH_READING_TOKENS:
            assert found.state is None and found.blocks == ()
            return
        assert may_help(shelf.store.index, asked)
        assert found.state is not None and found.state.label.end == best
        assert all(block.label.start < best for block in found.blocks)
        held = asked.matched_tokens
        assert max([held, *(block.label.end for block in found.blocks)]) >= best, "blocks cover it"


@given(tokens=st.integers(300, 2000), room=st.integers(0, 4000))
@settings(max_examples=40, deadline=None)
def test_no_more_is_read_than_there_is_room_for(tokens: int, room: int) -> None:
    prompt = tuple(range(tokens))
    with TemporaryDirectory() as directory:
        shelf = Shelf(Path(directory))
        shelf.write(chain(prompt))
        found = fetch(shelf.store, "job", want(prompt, room=room))
        read = [shelf.store.index.get(block.label.key) for block in found.blocks]
        assert sum(entry.nbytes for entry in read if entry is not None) <= room
        assert [block.label.start for block in found.blocks] == list(range(0, len(found.blocks) * 256, 256))


def test_bitwise_reuse_reads_whole_blocks_only() -> None:
    prompt = tuple(range(700))
    with TemporaryDirectory() as directory:
        shelf = Shelf(Path(directory))
        shelf.write(chain(prompt))
        assert [block.label.end for block in fetch(shelf.store, "job", want(prompt, bitwise=True)).blocks] == [256, 512]


def test_a_path_with_a_broken_block_is_read_up_to_there_and_the_break_is_told() -> None:
    prompt, labels = tuple(range(1100)), chain(tuple(range(1100)))
    with TemporaryDirectory() as directory:
        shelf = Shelf(Path(directory))
        shelf.write([*labels, state(prompt[:1000])])
        entry = shelf.store.index.get(labels[2].key)
        assert entry is not None
        path = shelf.path(entry)
        path.write_bytes(path.read_bytes()[:-1])
        found = fetch(shelf.store, "job", want(prompt, state=True))
        assert [block.label for block in found.blocks] == labels[:2] and found.state is None
        assert found.flawed is not None
        assert (found.flawed.parent, found.flawed.own) == (labels[1].own, labels[2].own)
        assert (found.flawed.ids, found.flawed.start) == (labels[2].ids, 512)


def test_the_tree_of_another_is_never_asked() -> None:
    prompt = tuple(range(700))
    with TemporaryDirectory() as directory:
        shelf = Shelf(Path(directory))
        shelf.write(chain(prompt))
        other = want(prompt)
        asked = type(other)(b"x" * 32, (b"x" * 32,), other.packed, other.limit, 0, 0, False, False, 1 << 40)
        assert not may_help(shelf.store.index, asked) and fetch(shelf.store, "job", asked).blocks == ()
        assert ROOT.key != asked.root


def test_a_state_whose_blocks_are_gone_is_not_read() -> None:
    prompt = tuple(range(700))
    with TemporaryDirectory() as directory:
        shelf = Shelf(Path(directory))
        shelf.write([chain(prompt)[0], state(prompt[:600]), state(prompt[:200])])
        for in_memory, deepest in ((0, 200), (512, 200), (600, 600)):
            found = fetch(shelf.store, "job", want(prompt, in_memory=in_memory, state=True))
            assert found.state is not None and found.state.label.end == deepest
