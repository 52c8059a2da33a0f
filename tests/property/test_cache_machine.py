"""Everything that can happen to a prefix cache, in any order, against a dictionary of all that was ever committed."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from inference.cache.blocks import Root
from inference.cache.limits import CacheLimits
from inference.cache.node import Admission
from inference.cache.reuse import ReuseMode
from tests.cache_driver import Driver, RowOfTest

ROOTS = [Root("a", "weights-a"), Root("b", "weights-b"), Root("a", "weights-a", salt=b"s", token_cost=3.0)]
SESSIONS = ["", "one", "two"]
BLOCK_BYTES = 2560

LIMITS = st.builds(
    CacheLimits,
    budget_bytes=st.sampled_from([0, 3 * BLOCK_BYTES, 8 * BLOCK_BYTES + 7, 10**9]),
    snapshot_budget_bytes=st.sampled_from([0, 1200, 10**9]),
    side_budget_bytes=st.sampled_from([0, 2 * BLOCK_BYTES, 10**9]),
    ttl_s=st.sampled_from([0.0, 30.0]),
    idle_s=st.sampled_from([0.0, 50.0]),
    max_sessions=st.sampled_from([0, 1]),
    max_entries_per_session=st.sampled_from([0, 2]),
    max_conversation_tokens=st.sampled_from([0, 900]),
)


class CacheMachine(RuleBasedStateMachine):
    @initialize(limits=LIMITS, exact=st.booleans())
    def open(self, limits: CacheLimits, exact: bool) -> None:
        self.driver = Driver(limits, exact)

    def _row(self, pick: int) -> RowOfTest:
        return self.driver.rows[pick % len(self.driver.rows)]

    @rule(
        root=st.sampled_from(ROOTS),
        pick=st.integers(0, 50),
        keep=st.integers(0, 900),
        fresh=st.integers(0, 600),
        token=st.integers(0, 2),
        needs_snapshot=st.booleans(),
        mode=st.sampled_from(ReuseMode),
        session=st.sampled_from(SESSIONS),
        admission=st.sampled_from(Admission),
    )
    def start(
        self,
        root: Root,
        pick: int,
        keep: int,
        fresh: int,
        token: int,
        needs_snapshot: bool,
        mode: ReuseMode,
        session: str,
        admission: Admission,
    ) -> None:
        """A prompt that goes on from the beginning of an earlier sequence, of any length, or from none."""
        history = self.driver.history
        kept = history[pick % len(history)][:keep] if history else ()
        ids = kept + tuple(token + (i % 3) for i in range(fresh))
        self.driver.start(root, ids, needs_snapshot=needs_snapshot, mode=mode, session=session, admission=admission)

    @precondition(lambda self: self.driver.rows)
    @rule(
        pick=st.integers(0, 9),
        tokens=st.sampled_from([1, 100, 255, 256, 257, 700]),
        decode=st.booleans(),
        tail=st.booleans(),
        state=st.sampled_from([-1, 0, 1, 200, 300]),
    )
    def compute(self, pick: int, tokens: int, decode: bool, tail: bool, state: int) -> None:
        self.driver.compute(self._row(pick), tokens, decode=decode, tail=tail, state=state)

    @precondition(lambda self: self.driver.rows)
    @rule(pick=st.integers(0, 9))
    def prefill_to_the_grid(self, pick: int) -> None:
        row = self._row(pick)
        self.driver.compute(row, 256 - row.computed % 256, state=0)

    @precondition(lambda self: self.driver.rows)
    @rule(pick=st.integers(0, 9))
    def finish(self, pick: int) -> None:
        self.driver.finish(self._row(pick))

    @precondition(lambda self: self.driver.rows)
    @rule(pick=st.integers(0, 9), sure=st.integers(0, 3))
    def abort(self, pick: int, sure: int) -> None:
        if not sure:
            self.driver.abort(self._row(pick))

    @rule(seconds=st.sampled_from([1.0, 29.0, 51.0]))
    def wait(self, seconds: float) -> None:
        self.driver.wait(seconds)

    @rule(root=st.sampled_from(ROOTS), sure=st.integers(0, 3))
    def clear(self, root: Root, sure: int) -> None:
        if not sure:
            self.driver.clear(root)

    @invariant()
    def laws_hold(self) -> None:
        if hasattr(self, "driver"):
            self.driver.check_always()


CacheMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestCacheMachine = CacheMachine.TestCase
