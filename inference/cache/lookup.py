"""Looks a prompt up in a store: how much of it matches, how deep the model can resume, and why not deeper."""

from __future__ import annotations

from dataclasses import replace

from inference.cache.blocks import BLOCK_TOKENS, token_slice
from inference.cache.node import Snapshot
from inference.cache.parting import parting
from inference.cache.reuse import Query, Reuse, ReuseMode
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
    parts = parting(store.sessions.get(query.session), match, query)
    return Reuse(
        query=query,
        depth_tokens=depth,
        handles=tuple(node.handle for node in nodes if node.handle is not None),
        snapshot=None if stored is None else stored.handle,
        kv_depth_tokens=match.depth,
        verdict=judge(_evidence(store, query, match, depth, parts)),
        version=store.tree.version,
        nodes=nodes,
        stored=stored,
        parting=parts,
    )


def with_disk(store: Store, reuse: Reuse, match: Match, depth: int, *, at_end: bool) -> Verdict:
    """What a lookup's verdict becomes when the disk brings blocks up to a depth; `match` is what memory has."""
    evidence = _evidence(store, reuse.query, match, depth, reuse.parting)
    return judge(replace(evidence, matched=depth, at_end=at_end, loss=None))


def _evidence(store: Store, query: Query, match: Match, resumed: int, parts: Parting | None) -> Evidence:
    digest, at = (match.path[-1].digest, match.path[-1].end) if match.path else (query.root.key, 0)
    session = store.sessions.get(query.session)
    return Evidence(
        root=query.root,
        limit=query.limit,
        wanted=store.limits.min_reuse_tokens,
        matched=match.depth,
        resumed=resumed,
        at_end=match.at_end,
        needs_snapshot=query.needs_snapshot,
        bitwise=query.mode is ReuseMode.BITWISE,
        loss=store.attribution.loss(digest, at, query.packed, match.tail_tokens, query.limit),
        session_root=None if session is None else session.root,
        parts_at=None if parts is None else parts.token,
    )


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
