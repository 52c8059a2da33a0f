"""Where a prompt leaves what its own session read before, and what stands there instead."""

from __future__ import annotations

from inference.cache.blocks import BLOCK_TOKENS, common_tokens, token_slice, unpack
from inference.cache.node import Node
from inference.cache.reuse import Query
from inference.cache.sessions import Session
from inference.cache.tree import Match
from inference.events import Parting

SHOWN_TOKENS = 16
"""Enough for a person to see what the difference is."""
RECENT_ENTRIES = 16
"""An agent and its sub-agents; a request is compared with that one of them which it follows furthest. So it is with
side calls, for the first turn of a conversation may have been taken for one."""


def parting(session: Session | None, match: Match, query: Query) -> Parting | None:
    """None where there is nothing to compare with, or the prompt goes on from it or ends within."""
    if session is None or not session.entries or match.reaches(session.entries[-1]):
        return None
    recent = [*session.entries[-RECENT_ENTRIES:], *list(session.aside)[-RECENT_ENTRIES:]]
    paths = (_path(entry) for entry in recent if entry.root.key == query.root.key)
    found = [(_common(path, match, query.packed), path) for path in paths]
    if not found:
        return None
    token, path = max(found, key=lambda one: one[0])
    stored = _ids(path, token)
    return Parting(token, stored) if stored and token < query.limit else None


def _path(entry: Node) -> list[Node]:
    return list(entry.upwards())[::-1]


def _common(path: list[Node], match: Match, packed: bytes) -> int:
    """Tokens that a path and the prompt share. Blocks of the match are known to be equal; the next one is compared."""
    shared = 0
    for node, matched in zip(path, match.path[1:], strict=False):
        if node is not matched:
            break
        shared += 1
    at = shared * BLOCK_TOKENS
    return at + (
        common_tokens(path[shared].ids, token_slice(packed, at, at + BLOCK_TOKENS)) if shared < len(path) else 0
    )


def _ids(path: list[Node], token: int) -> tuple[int, ...]:
    """What a path has from a token on; nothing where it ends there."""
    behind = path[token // BLOCK_TOKENS :][:2]
    joined = b"".join(node.ids for node in behind)
    start = token % BLOCK_TOKENS
    return unpack(token_slice(joined, start, start + SHOWN_TOKENS))
