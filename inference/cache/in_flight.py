"""Who is prefilling what right now, so that a request waits for blocks that are under way instead of making them again.

A waiting job claims nothing itself, so no two can wait for each other; when it wakes it looks up again, and then either
resumes, waits for another claim, or claims what is still missing. How a claim ends does not matter to those who wait.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference.cache.blocks import BLOCK_TOKENS, common_tokens, pack
from inference.tokens import TokenIds

WORTH_WAITING_TOKENS = BLOCK_TOKENS
"""Less than a block is sooner computed than waited for."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """`job` will have stored the first `until_tokens` of a prompt."""

    job: str
    until_tokens: int


@dataclass(slots=True)
class _Claim:
    root_key: bytes
    packed: bytes
    done_tokens: int
    to_tokens: int


class InFlight:
    """Claims and those who wait for them. Pure bookkeeping: it neither computes nor sleeps."""

    def __init__(self) -> None:
        self._claims: dict[str, _Claim] = {}
        self._waiting: dict[str, Awaited] = {}

    def claim(self, job: str, root_key: bytes, ids: TokenIds, from_tokens: int, to_tokens: int) -> None:
        """`job` computes the tokens `from_tokens` to `to_tokens` of `ids`, in order, and stores them as it goes."""
        if not 0 <= from_tokens <= to_tokens <= len(ids):
            raise ValueError("a claim must lie within its ids")
        self._waiting.pop(job, None)
        self._claims[job] = _Claim(root_key, pack(ids[:to_tokens]), from_tokens, to_tokens)

    def awaited(self, root_key: bytes, ids: TokenIds, depth_tokens: int) -> Awaited | None:
        """The claim that brings a prompt furthest beyond what is stored of it (`depth_tokens`), if it is worth it.

        At most all ids but the last count, as in a lookup.
        """
        packed = pack(ids[:-1])
        offers = []
        for job, claim in self._claims.items():
            until = common_tokens(claim.packed, packed) if claim.root_key == root_key else 0
            if until > claim.done_tokens and until - depth_tokens >= WORTH_WAITING_TOKENS:
                offers.append(Awaited(job, until))
        return max(offers, key=lambda offer: offer.until_tokens, default=None)

    def wait(self, job: str, awaited: Awaited) -> None:
        """`job` sleeps until that depth is stored or the claim ends. Raises `ValueError` if it has claimed itself."""
        if job in self._claims or awaited.job not in self._claims:
            raise ValueError("a job waits for another's claim and holds none itself")
        self._waiting[job] = awaited

    def waits(self, job: str) -> bool:
        return job in self._waiting

    def wanted_snapshots(self, job: str) -> tuple[int, ...]:
        """Depths at which those who wait for `job` go on: a recurrent state is worth keeping there."""
        return tuple(sorted({wait.until_tokens for wait in self._waiting.values() if wait.job == job}))

    def advance(self, job: str, stored_tokens: int) -> tuple[str, ...]:
        """`job` has stored its first `stored_tokens`; returns who wakes, in the order they came.

        A waiter's last tokens lie inside a block, so it wakes when the whole block is stored or the claim has ended.
        """
        if (claim := self._claims.get(job)) is None:
            return ()
        claim.done_tokens = max(claim.done_tokens, stored_tokens)
        return self._wake(job, claim.done_tokens)

    def end(self, job: str) -> tuple[str, ...]:
        """`job` stored all it claimed, failed, was cancelled, or stopped waiting; returns who wakes. Idempotent."""
        self._waiting.pop(job, None)
        self._claims.pop(job, None)
        return self._wake(job, None)

    def _wake(self, job: str, stored_tokens: int | None) -> tuple[str, ...]:
        """`stored_tokens` None wakes all who wait for the job."""
        woken = tuple(
            waiter
            for waiter, wait in self._waiting.items()
            if wait.job == job and (stored_tokens is None or wait.until_tokens <= stored_tokens)
        )
        for waiter in woken:
            del self._waiting[waiter]
        return woken
