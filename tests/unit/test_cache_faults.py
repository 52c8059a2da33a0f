"""Faults planted in the cache, each of which the laws of the driver must catch; without one they hold."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from inference.cache import blocks, eviction, lookup, parts, prefix_map, tree
from inference.cache.blocks import Root
from inference.cache.limits import CacheLimits
from inference.cache.node import Admission, Node
from inference.cache.reuse import ReuseMode
from tests.cache_driver import Driver

MODELS = ("a", "b")
LIMITS = CacheLimits(budget_bytes=12 * 2560, snapshot_budget_bytes=4000, side_budget_bytes=3 * 2560, ttl_s=200.0)
ROOMY = CacheLimits(budget_bytes=10**9, snapshot_budget_bytes=10**9, side_budget_bytes=10**9)


def walk(seed: int, limits: CacheLimits) -> None:
    """A day in the life of a cache: prompts that extend, branch and repeat, rows that finish, fail or wait."""
    draw = random.Random(seed)
    many_ways = seed % 2 == 0  # of one text, that part within one block
    roots = [Root(name, f"weights-{name}") for name in (MODELS[:1] if many_ways else MODELS)]
    driver = Driver(limits, exact=seed % 3 > 0)
    for _ in range(60):
        act = draw.random()
        if act < 0.4 or not driver.rows:
            cut = draw.choice([*draw.sample(range(530, 760), 3), 1200]) if many_ways else draw.randrange(300, 1500)
            history = draw.choice(driver.history[-6:])[:cut] if driver.history else ()
            fresh = draw.choice([0, 1, 30, draw.randrange(100, 500)]) if history else 400
            ids = history + tuple(draw.randrange(3) for _ in range(fresh))
            driver.start(
                draw.choice(roots),
                ids,
                needs_snapshot=draw.random() < 0.5,
                mode=draw.choice(list(ReuseMode)),
                admission=draw.choice(list(Admission)),
            )
        elif act < 0.8:
            row = draw.choice(driver.rows)
            driver.compute(
                row,
                draw.choice([1, 100, 256, max(1, len(row.ids) - row.computed) if many_ways else 300]),
                decode=draw.random() < 0.2,
                tail=many_ways or draw.random() < 0.5,
                state=draw.choice([-1, 0, 60]),
            )
        elif act < (0.97 if seed % 4 else 0.85):
            driver.finish(draw.choice(driver.rows))
        elif act < 0.97:
            driver.abort(draw.choice(driver.rows))
        else:
            driver.wait(90)
        driver.check_always()


def taken_over(limits: CacheLimits) -> None:
    """A row takes a beginning over from one that goes on and then fails, and a third from both."""
    driver, root = Driver(limits), Root("a", "weights-a")
    trunk = tuple(range(640))
    first = driver.start(root, trunk[:512])
    driver.compute(first, 512)
    driver.finish(first)
    failing = driver.start(root, trunk)
    driver.compute(failing, 89)
    for cut in (570, 560):
        row = driver.start(root, (*trunk[:cut], *range(1000, 1050)))
        driver.compute(row, len(row.ids) - row.computed)
        driver.check_always()
        driver.finish(row)
    driver.compute(failing, 40)
    driver.abort(failing)
    driver.check_always()


def days(limits: CacheLimits) -> None:
    taken_over(limits)
    for seed in range(18):
        walk(seed, limits)


@pytest.mark.parametrize("limits", [LIMITS, ROOMY])
def test_without_a_fault_the_laws_hold(limits: CacheLimits) -> None:
    days(limits)


def skipped_token(patch: pytest.MonkeyPatch) -> None:
    """The match claims one token more than it compared."""
    match = tree.PrefixTree.match

    def longer(self: Any, root: Root, packed: bytes, limit: int) -> tree.Match:
        found = match(self, root, packed, limit)
        more = found.tail is not None and found.tail_tokens < min(found.tail.tokens, limit - found.path[-1].end)
        return replace(found, tail_tokens=found.tail_tokens + 1) if more else found

    patch.setattr(tree.PrefixTree, "match", longer)


def all_of_the_prompt(patch: pytest.MonkeyPatch) -> None:
    """No token is left to compute."""
    match = tree.PrefixTree.match
    patch.setattr(tree.PrefixTree, "match", lambda self, root, packed, limit: match(self, root, packed, limit + 1))


def stale_prefix(patch: pytest.MonkeyPatch) -> None:
    """Blocks are found under the root, whatever came before them."""

    def anywhere(self: Any, root: Root, packed: bytes, limit: int) -> tree.Match:
        if root.key not in self.roots:
            return tree.Match(())
        path, at = [self.roots[root.key]], 0
        nodes = {leaf.ids: leaf for leaf in self.leaves for leaf in leaf.upwards() if leaf.is_full}
        while at + 256 <= limit and (node := nodes.get(blocks.token_slice(packed, at, at + 256))):
            path.append(node)
            at += 256
        return tree.Match(tuple(path))

    patch.setattr(tree.PrefixTree, "match", anywhere)


def foreign_fingerprint(patch: pytest.MonkeyPatch) -> None:
    """Two models share a root."""
    patch.setattr(blocks, "root_key", lambda fingerprint, salt=b"": b"root" * 8)


def snapshot_of_wrong_depth(patch: pytest.MonkeyPatch) -> None:
    """A snapshot is taken wherever one hangs, its tokens uncompared."""

    def any_of_the_node(match: tree.Match, query: Any) -> Any:
        held = [snapshot for node in match.path for snapshot in node.snapshots.values()]
        return max((one for one in held if one.depth <= match.depth), key=lambda one: one.depth, default=None)

    patch.setattr(lookup, "_deepest_snapshot", any_of_the_node)


def hash_only_match(patch: pytest.MonkeyPatch) -> None:
    """A whole block is taken for equal when its hash is (a short one, so that some collide)."""

    def by_hash(self: Any, key: bytes) -> Any:
        return next(
            (self._values[held] for held in self._keys if len(held) == len(key) and sum(held) % 8 == sum(key) % 8), None
        )

    patch.setattr(prefix_map.PrefixMap, "get", by_hash)


def neighbour_unread(patch: pytest.MonkeyPatch) -> None:
    """The longest common prefix is sought on one side only."""

    def one_side(self: Any, key: bytes, but: bytes | None = None) -> Any:
        at = prefix_map.bisect_left(self._keys, key)
        if at == len(self._keys):
            return None, 0
        common = blocks.common_tokens(self._keys[at], key)
        return (self._values[self._keys[at]], common) if common else (None, 0)

    patch.setattr(prefix_map.PrefixMap, "nearest", one_side)


def locks_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(eviction, "_may_go", lambda node, admission, _locked: node.admission is admission)


def inexact_taken_for_exact(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lookup, "_exact_depth", lambda match: (len(match.path) - 1) * 256 if match.path else 0)


def budget_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Refilled blocks are counted at what they were."""
    fill = tree.PrefixTree._fill

    def uncounted(self: Any, node: Node, handle: Any, exact: bool) -> None:
        before = dict(self.parts.nbytes)
        fill(self, node, handle, exact)
        if node in self.leaves:
            self.parts.nbytes = before

    patch.setattr(tree.PrefixTree, "_fill", uncounted)


def causes_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What was evicted passes for never seen."""
    patch.setattr(lookup, "_evidence", lambda *args, was=lookup._evidence: replace(was(*args), loss=None))


def part_freed_while_shared(patch: pytest.MonkeyPatch) -> None:
    """Who lets go of a part takes its bytes along, whoever else holds it."""
    drop = parts.PartTally.drop

    def greedy(self: Any, some: Any) -> int:
        kept = [part for part in some if self.shares[part].holders > 1]
        for part in kept:
            self.nbytes[self.shares[part].admission] -= part.nbytes
        return drop(self, some) + sum(part.nbytes for part in kept)

    patch.setattr(parts.PartTally, "drop", greedy)


def parted_at_a_wrong_depth(patch: pytest.MonkeyPatch) -> None:
    """A block takes one token more from its sibling than they have in common."""
    sibling = tree.PrefixTree.sibling

    def further(self: Any, parent: Node, ids: bytes, held: Node | None, *, exact: bool) -> Any:
        near, common = sibling(self, parent, ids, held, exact=exact)
        more = near is not None and common + 1 < min(near.tokens, len(ids) // 4)
        return near, common + more

    patch.setattr(tree.PrefixTree, "sibling", further)


def one_holder_told(patch: pytest.MonkeyPatch) -> None:
    """A part is split for one of the blocks that hold it."""
    part_at = tree.PrefixTree.part_at

    def alone(self: Any, node: Node, tokens: int) -> Any:
        assert node.parent is not None
        others = {one: one.handle for one in node.parent.children if one is not node}
        handle = part_at(self, node, tokens)
        for one, was in others.items():
            one.handle = was
        return handle

    patch.setattr(tree.PrefixTree, "part_at", alone)


def beginnings_kept_by_each(patch: pytest.MonkeyPatch) -> None:
    """Siblings share nothing."""
    patch.setattr(tree.PrefixTree, "sibling", lambda *_args, **_more: (None, 0))


def bits_of_a_cold_prefill_lost(patch: pytest.MonkeyPatch) -> None:
    """An exact block takes its beginning from one that is not."""
    sibling = tree.PrefixTree.sibling
    patch.setattr(tree.PrefixTree, "sibling", lambda *args, exact: sibling(*args, exact=False))


def distrusted_parts_kept(patch: pytest.MonkeyPatch) -> None:
    """What a row left goes, but not where a sibling has taken it over."""
    patch.setattr(tree.PrefixTree, "holders", lambda _tree, node, _start: [node] if node.attached else [])


FAULTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    skipped_token,
    all_of_the_prompt,
    stale_prefix,
    foreign_fingerprint,
    snapshot_of_wrong_depth,
    hash_only_match,
    neighbour_unread,
    locks_ignored,
    inexact_taken_for_exact,
    budget_forgotten,
    causes_forgotten,
    part_freed_while_shared,
    parted_at_a_wrong_depth,
    one_holder_told,
    beginnings_kept_by_each,
    bits_of_a_cold_prefill_lost,
    distrusted_parts_kept,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_caught(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    with pytest.raises((AssertionError, ValueError, KeyError)):
        days(LIMITS)
        days(ROOMY)
