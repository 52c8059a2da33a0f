"""A process that answers one order at a time: what becomes of it and of the order, in each way it can end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

from inference.child import Child, ChildEnded
from inference.errors import Draining

LONG_S = 60.0


def main() -> None:
    """The child's side: ("sleep", seconds), ("die",) or anything, which comes back with the process's id."""
    import sys

    with Connection(int(sys.argv[1])) as connection:
        while True:
            match connection.recv():
                case ("sleep", seconds):
                    time.sleep(seconds)
                case ("die",):
                    os._exit(1)
                case order:
                    connection.send((os.getpid(), order))


@pytest.fixture
def starts() -> list[int]:
    return []


@pytest.fixture
def child(starts: list[int]) -> Iterator[Child]:
    made = Child("tests.integration.test_child", lambda: starts.append(1))
    yield made
    made.kill_for_good()
    made.end()


def test_it_starts_with_the_first_order_and_stays(child: Child, starts: list[int]) -> None:
    assert child.pid is None
    pid, answer = child.ask("a" * (1 << 20), LONG_S)  # more than a socket holds
    assert (pid, len(answer)) == (child.pid, 1 << 20)
    assert child.ask("b", LONG_S) == (pid, "b")
    assert len(starts) == 1


@pytest.mark.parametrize(("order", "limit_s", "overdue"), [(("sleep", LONG_S), 0.5, True), (("die",), LONG_S, False)])
def test_it_ends_without_an_answer_and_the_next_order_has_a_new_one(
    child: Child, starts: list[int], order: Any, limit_s: float, overdue: bool
) -> None:
    first, _ = child.ask("a", LONG_S)
    with pytest.raises(ChildEnded) as ended:
        child.ask(order, limit_s)
    assert (ended.value.overdue, child.pid) == (overdue, None)
    second, _ = child.ask("b", LONG_S)
    assert (len(starts), second != first) == (2, True)


def test_it_takes_no_order_any_more_once_it_is_killed_for_good(child: Child, starts: list[int]) -> None:
    child.kill_for_good()
    with pytest.raises(Draining):
        child.ask("a", LONG_S)
    assert not starts


def test_one_that_starts_while_it_is_closed_does_not_stay() -> None:
    """Who closes may look for a process just before there is one."""
    closing: list[Child] = []

    def close() -> None:
        closing[0]._closed.set()

    starting = Child("tests.integration.test_child", close)
    closing.append(starting)
    began_s = time.monotonic()
    with pytest.raises(Draining):
        starting.ask(("sleep", LONG_S), LONG_S)
    assert starting.pid is None
    assert time.monotonic() - began_s < LONG_S / 2
