"""Whose chunk comes next, and where it ends: laws of the queue, no model needed."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from inference.engine.prefill import PrefillQueue, PrefillRow, chunk_end, pieces
from inference.engine.rows import Row
from inference.engine.settings import GRID_TOKENS
from inference.tokens import KVOffset
from tests.engine.harness import job


def waiting(name: str, length: int, offset: int = 0) -> PrefillRow:
    ids = tuple([5] * length)
    return PrefillRow([Row.of(job(name, ids))], ids, [], KVOffset(offset))


def serve(queue: PrefillQueue, step_tokens: int) -> dict[str, int]:
    """One step: what each row got. Rows at their goal leave, as the runner makes them."""
    got = {}
    for row, end in queue.chunks(step_tokens):
        got[row.row.job.id] = end - row.offset
        row.offset = KVOffset(end)
        if row.offset == row.goal:
            queue.remove(row)
    return got


@given(start=st.integers(0, 5000), length=st.integers(0, 5000), budget=st.integers(0, 2048))
def test_chunks_end_on_the_grid_or_at_the_goal(start: int, length: int, budget: int) -> None:
    goal = start + length
    end = chunk_end(start, goal, budget)
    assert start <= end <= min(goal, start + budget)
    assert end in (start, goal) or end % GRID_TOKENS == 0
    if budget >= GRID_TOKENS and length:
        assert end > start


@given(start=st.integers(0, 5000), length=st.integers(0, 3000))
def test_pieces_are_the_tokens_between_grid_lines(start: int, length: int) -> None:
    cut = list(pieces(start, start + length))
    assert [at for piece in cut for at in range(*piece)] == list(range(start, start + length))
    assert all(stop % GRID_TOKENS == 0 for _, stop in cut[:-1])
    assert all(stop - begin <= GRID_TOKENS for begin, stop in cut)
    assert all(begin // GRID_TOKENS == (stop - 1) // GRID_TOKENS for begin, stop in cut)


@given(start=st.integers(0, 5000), length=st.integers(1, 3000), cuts=st.sets(st.integers(0, 8000)))
def test_a_short_rest_of_a_row_within_a_block_is_one_piece(start: int, length: int, cuts: set[int]) -> None:
    end, at = start + length, sorted(cuts)
    cut = list(pieces(start, end, at, whole=True))
    if start % GRID_TOKENS == 0 or length > GRID_TOKENS:
        assert cut == list(pieces(start, end, at))
    else:
        assert cut == list(pairwise([start, *(one for one in at if start < one < end), end]))


@given(
    lengths=st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 3999)), min_size=1, max_size=8),
    step_tokens=st.sampled_from((256, 512, 1024)),
)
def test_every_step_moves_somebody_and_keeps_its_budget(lengths: list[tuple[int, int]], step_tokens: int) -> None:
    queue = PrefillQueue()
    for at, (length, offset) in enumerate(lengths):
        queue.add(waiting(str(at), length, min(offset, length - 1)))
    while len(queue):
        due = {row.row.job.id for row in queue if row.remaining_tokens == 0}
        got = serve(queue, step_tokens)
        assert sum(got.values()) <= step_tokens
        assert sum(got.values()) or due & set(got)


def test_the_shortest_goes_first_and_the_oldest_is_not_starved() -> None:
    queue = PrefillQueue()
    queue.add(waiting("long", 5000))
    got_by_long = 0
    for step in range(40):  # a new short prompt, a whole step's worth, arrives at every step
        queue.add(waiting(f"short{step}", 257))
        got_by_long += serve(queue, 256).get("long", 0)
    assert got_by_long == 40 // 4 * 256


def test_short_prompts_share_a_step() -> None:
    queue = PrefillQueue()
    for at in range(4):
        queue.add(waiting(str(at), 101))
    assert serve(queue, 512) == {"0": 100, "1": 100, "2": 100, "3": 100}


def test_what_a_step_has_left_goes_to_the_next_row_s_next_grid_line() -> None:
    queue = PrefillQueue()
    queue.add(waiting("long", 3000, offset=100))
    queue.add(waiting("short", 101))
    assert serve(queue, 512) == {"short": 100, "long": 412}
    queue.add(waiting("short", 101))
    assert serve(queue, 512) == {"short": 100, "long": 256}
