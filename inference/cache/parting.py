"""Where a prompt leaves what its own session read before, and what stands there instead."""

from __future__ import annotations

from inference.cache.blocks import BLOCK_TOKENS, common_tokens, token_slice, unpack
from inference.cache.node import Node
from inference.cache.recollection import Past
from inference.cache.reuse import Query
from inference.cache.sessions import Session
from inference.cache.tree import Match
from inference.events import Parting
from inference.tokens import TokenIds

SHOWN_TOKENS = 16
"""Enough for a person to see what the difference is."""
RECENT_ENTRIES = 16
"""An agent and its sub-agents; a request is compared with that one of them which it follows furthest. So it is with
side calls, for the first turn of a conversation may have been taken for one."""


def parting(session: Session | None, match: Match, query: Query, past: Past | None = None) -> Parting | None:
    """None where there is nothing to compare with, or the prompt goes on from it or ends within. `past` is what an
    earlier process has seen of the session."""
    if follows(session, match, past):
        return None
    found = [(past.shared, past.stored)] if past is not None else []
    if session is not None and session.entries:
        recent = [*session.entries[-RECENT_ENTRIES:], *list(session.aside)[-RECENT_ENTRIES:]]
        paths = (_path(entry) for entry in recent if entry.root.key == query.root.key)
        found = [*(_parted(path, match, query.packed) for path in paths), *found]
    token, stored = max(found, default=(0, ()))  # of equally long ones any, but the same in every process
    return Parting(token, stored) if stored and token < query.limit else None


def follows(session: Session | None, match: Match, past: Past | None = None) -> bool:
    """Whether a prompt has all that the last request of its session read, or the answer to it as well."""
    known = session is not None and bool(session.entries)
    if session is not None and known and not (session.unsure and past is not None and not past.unsure):
        return match.reaches(session.entries[-1])
    return past is not None and past.reached


def _path(entry: Node) -> list[Node]:
    return list(entry.upwards())[::-1]


def _parted(path: list[Node], match: Match, packed: bytes) -> tuple[int, TokenIds]:
    token = _common(path, match, packed)
    return token, _ids(path, token)


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


def _ids(path: list[Node], token: int) -> TokenIds:
    """What a path has from a token on; nothing where it ends there."""
    behind = path[token // BLOCK_TOKENS :][:2]
    joined = b"".join(node.ids for node in behind)
    start = token % BLOCK_TOKENS
    return unpack(token_slice(joined, start, start + SHOWN_TOKENS))
