"""Conversations of counted tokens in a cache whose limits are counted in blocks."""

from __future__ import annotations

from inference.cache.blocks import Root
from inference.cache.limits import CacheLimits
from inference.cache.node import Admission
from tests.cache_driver import Driver, RowOfTest

ROOT = Root("m", "w")
BLOCK = 2560
PLENTY = CacheLimits(budget_bytes=10**9, snapshot_budget_bytes=10**9, side_budget_bytes=10**9)


def talk(number: int, tokens: int) -> tuple[int, ...]:
    return tuple(range(number * 10_000, number * 10_000 + tokens))


def stored(
    driver: Driver,
    ids: tuple[int, ...],
    *,
    session: str = "",
    admission: Admission = Admission.MAIN,
    root: Root = ROOT,
    state: int = -1,
) -> RowOfTest:
    row = driver.start(root, ids, session=session, admission=admission)
    driver.compute(row, len(ids) - row.computed, state=state)
    driver.finish(row)
    return row


def warm(driver: Driver, ids: tuple[int, ...], root: Root = ROOT) -> int:
    return driver.cache.lookup(root, (*ids, 999_999)).depth_tokens
