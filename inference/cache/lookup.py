"""Looks a prompt up in a store: how much of it matches, how deep the model can resume, and why not deeper."""

from __future__ import annotations

from dataclasses import replace

from inference.cache.blocks import BLOCK_TOKENS, token_slice
from inference.cache.node import Snapshot
from inference.cache.parting import parting
from inference.cache.recollection import Recollection
from inference.cache.reuse import Foreseen, Query, Reuse, ReuseMode
from inference.cache.store import Store
from inference.cache.tree import Match
from inference.cache.verdict import Evidence, Verdict, judge
from inference.events import Parting


def find(store: Store, query: Query) -> Reuse:
    """Looks a prompt up. Changes nothing."""
    match = store.tree.match(query.root, query.packed, query.limit)
    depth, stored = resume(match, query)
    if depth < store.limits.min_reuse_tokens:
        depth, stored = 0, None
    nodes = match.blocks[: -(-depth // BLOCK_TOKENS)]
    seen = store.disk.recollections.of(query) if store.disk is not None else None
    parts = parting(store.sessions.get(query.session), match, query, None if seen is None else seen.past)
    return Reuse(
        query=query,
        depth_tokens=depth,
        handles=tuple(node.handle for node in nodes if node.handle is not None),
        snapshot=None if stored is None else stored.handle,
        kv_depth_tokens=match.depth,
        verdict=judge(_evidence(store, query, match, depth, parts, seen)),
        version=store.tree.version,
        nodes=nodes,
        stored=stored,
        parting=parts,
    )


def foresee(store: Store, reuse: Reuse) -> Foreseen:
    """What a lookup will find once the disk has read for it, as far as names of files tell."""
    as_it_is = Foreseen(reuse.depth_tokens, reuse.kv_depth_tokens, reuse.verdict)
    if store.disk is None:
        return as_it_is
    query = reuse.query
    match = store.tree.match(query.root, query.packed, query.limit)
    found = store.disk.forecast(query, match, reuse.depth_tokens, store.room_bytes)
    if found.until < max(store.limits.min_reuse_tokens, reuse.depth_tokens + 1):
        return as_it_is
    verdict = _with_disk(store, reuse, match, found.until, at_end=found.at_end)
    return Foreseen(found.until, max(found.until, reuse.kv_depth_tokens), verdict)


def _with_disk(store: Store, reuse: Reuse, match: Match, depth: int, *, at_end: bool) -> Verdict:
    """What a lookup's verdict becomes when the disk brings blocks up to a depth; `match` is what memory has."""
    evidence = _evidence(store, reuse.query, match, depth, reuse.parting)
    return judge(replace(evidence, matched=depth, at_end=at_end, loss=None))


def _evidence(
    store: Store, query: Query, match: Match, resumed: int, parts: Parting | None, seen: Recollection | None = None
) -> Evidence:
    digest, at = (match.path[-1].digest, match.path[-1].end) if match.path else (query.root.key, 0)
    session = store.sessions.get(query.session)
    past = seen.past if seen is not None else None
    before = session.root if session is not None else past.root if past is not None else None
    return Evidence(
        root=query.root,
        limit=query.limit,
        wanted=store.limits.min_reuse_tokens,
        matched=match.depth if seen is None else max(match.depth, seen.matched),
        resumed=resumed,
        at_end=match.at_end if seen is None else _at_end(match, seen),
        needs_snapshot=query.needs_snapshot,
        bitwise=query.mode is ReuseMode.BITWISE,
        loss=store.attribution.loss(digest, at, query.packed, match.tail_tokens, query.limit),
        session_root=before,
        parts_at=None if parts is None else parts.token,
    )


def _at_end(match: Match, seen: Recollection) -> bool:
    """Memory and disk together have nothing that begins like the prompt and goes on, or its session has ended there."""
    if match.depth != seen.matched:
        return match.at_end if match.depth > seen.matched else seen.matched > 0 and (seen.is_leaf or seen.ends_here)
    return seen.ends_here or (match.at_end and (seen.is_leaf or match.at_tip))


def resume(match: Match, query: Query) -> tuple[int, Snapshot | None]:
    """The deepest depth at which the model can go on, and the recurrent state there if it needs one."""
    if query.needs_snapshot:
        stored = _deepest_snapshot(match, query)
        return (stored.depth, stored) if stored is not None else (0, None)
    return (_exact_depth(match) if query.mode is ReuseMode.BITWISE else match.depth), None


def _exact_depth(match: Match) -> int:
    exact = 0
    for node in match.path[1:]:
        if not node.exact:
            break
        exact += 1
    return exact * BLOCK_TOKENS


def _deepest_snapshot(match: Match, query: Query) -> Snapshot | None:
    """Found by comparing the tokens between the grid line and its depth."""
    bitwise = query.mode is ReuseMode.BITWISE
    end = match.depth
    for node in reversed(match.path):
        ahead = token_slice(query.packed, node.end, min(end, node.end + BLOCK_TOKENS))
        fitting = [
            snapshot
            for suffix, snapshot in node.snapshots.items()
            if ahead.startswith(suffix) and (snapshot.exact or not bitwise)
        ]
        if fitting:
            return max(fitting, key=lambda snapshot: snapshot.depth)
    return None
