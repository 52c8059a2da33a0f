"""Who has the device's memory: the room's decisions one by one, with a real store and a scripted model."""

from __future__ import annotations

from typing import Any

import pytest

from inference.engine.scripted import Script, ScriptedRunner
from inference.ports import ModelLimits
from inference.scheduler.budget import assembly_bytes, estimate_bytes
from inference.scheduler.request import Ticket
from inference.scheduler.residents import Resident
from inference.scheduler.room import PATIENCE, Room
from inference.scheduler.settings import SchedulerSettings
from tests.scripted import MODEL, request
from tests.shelf import BLOCK_BYTES, LIMITS, Shelf

LOADS = [(LIMITS, [500])]
NEED, COPY = estimate_bytes(LOADS), assembly_bytes(LOADS)
SETTINGS = SchedulerSettings(queue_deadline_s=100.0)
UNLOCKED, LOCKED = 6, 4


class Scene:
    """A store of `UNLOCKED` free blocks and `LOCKED` ones that running rows stand on, and a ticket that came at 0 s."""

    def __init__(self, limit_bytes: int) -> None:
        self.now_s = 0.0
        self.shelf = Shelf(UNLOCKED + LOCKED)
        for lease in self.shelf.leases[LOCKED:]:
            self.shelf.cache.release(lease)
        self.room = Room(self.shelf.keeper, SETTINGS, lambda: self.now_s)
        self.room.limit_bytes = limit_bytes
        runner = ScriptedRunner(Script(limits=LIMITS), self.shelf.keeper)
        self.resident = Resident(MODEL, runner, LIMITS, 0, 0.0, 0.0)
        self.ticket = Ticket(request("x" * 490), 1, 10, 0.0, None)  # type: ignore[arg-type]  # nobody reads

    def admits(self, **how: Any) -> bool:
        return self.room.admits(self.ticket, self.resident, LOADS, **{"alone": False} | how)

    @property
    def blocks(self) -> int:
        return self.shelf.held // BLOCK_BYTES


def test_a_copy_is_one_row_of_the_longest() -> None:
    assert LIMITS.row_bytes(500) == COPY
    assert assembly_bytes([(LIMITS, []), (ModelLimits(1, 1, 9, 3), [7, 8])]) == 24


def test_what_fits_beside_the_store_takes_nothing() -> None:
    scene = Scene(NEED + 10 * BLOCK_BYTES)
    assert scene.admits() and scene.blocks == 10


@pytest.mark.parametrize("beside", [4, 7, 9])
def test_a_row_takes_what_it_needs_from_what_nobody_stands_on(beside: int) -> None:
    scene = Scene(NEED + beside * BLOCK_BYTES)
    assert scene.admits() and scene.blocks == beside


def test_what_rows_stand_on_may_be_where_the_copy_would() -> None:
    scene = Scene(NEED - COPY + LOCKED * BLOCK_BYTES)
    assert COPY > BLOCK_BYTES and scene.room.limit_bytes >= NEED
    assert scene.admits() and scene.blocks == LOCKED


def test_beside_running_rows_it_waits_but_not_for_ever_and_alone_not_at_all() -> None:
    limit = NEED - COPY + (LOCKED - 1) * BLOCK_BYTES
    scene = Scene(limit)
    assert not scene.admits() and scene.blocks == LOCKED
    assert not scene.room.patience_ended()
    scene.now_s = PATIENCE * SETTINGS.queue_deadline_s
    assert scene.room.patience_ended() and not scene.room.patience_ended(), "one more look is enough"
    assert scene.admits() and scene.blocks == LOCKED - 1
    assert Scene(limit).admits(alone=True)


def test_no_row_is_let_in_that_would_not_fit_without_the_store() -> None:
    scene = Scene(NEED - 1)
    assert not scene.admits(alone=True) and scene.blocks == 10


def test_a_row_that_was_let_in_bounds_what_is_stored_at_once() -> None:
    scene = Scene(NEED + 7 * BLOCK_BYTES)
    assert scene.admits()
    assert scene.shelf.cache.ceiling_bytes == scene.room.limit_bytes - NEED + COPY


def test_the_store_is_divided_anew_when_rows_grow_and_when_they_end() -> None:
    scene = Scene(NEED + 7 * BLOCK_BYTES)
    scene.room.divide(LOADS)
    assert scene.blocks == 7
    scene.room.divide([(LIMITS, [500 + 3 * 256 // 2])])  # the row and its copy are longer
    assert scene.blocks == 4
    scene.room.divide([(LIMITS, [2000])])
    assert scene.blocks == LOCKED and scene.shelf.cache.ceiling_bytes == max(
        0, scene.room.limit_bytes - LIMITS.weights_bytes - LIMITS.row_bytes(2000)
    )
    scene.room.divide([(LIMITS, [])])
    assert scene.shelf.cache.ceiling_bytes == scene.room.limit_bytes - LIMITS.weights_bytes


def test_without_a_limit_or_a_store_there_is_room_for_everybody() -> None:
    scene = Scene(0)
    assert scene.admits() and scene.blocks == 10 and scene.shelf.cache.ceiling_bytes is None
    scene.room.divide(LOADS)
    assert scene.blocks == 10
    bare = Room(None, SETTINGS, lambda: 0.0)
    bare.limit_bytes = NEED
    assert bare.admits(scene.ticket, scene.resident, LOADS, alone=False)
    bare.divide(LOADS)
    bare.sweep()
    assert bare.give_back(10) == 0


def test_a_full_device_gets_back_what_it_asks_for_locked_last() -> None:
    scene = Scene(NEED)
    assert scene.room.give_back(UNLOCKED * BLOCK_BYTES) == UNLOCKED * BLOCK_BYTES
    assert all(lease.tip.attached for lease in scene.shelf.leases[:LOCKED])
    assert scene.room.give_back(10**9) == LOCKED * BLOCK_BYTES
