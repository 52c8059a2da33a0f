"""The records of lineage: what a request shows of itself, where it was placed, and the turn it became."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from inference.conversation.lineage_memory import FRESH, LineageMemory


class Edge(StrEnum):
    """How a turn hangs in the tree. `extend` and `resume` carry a line on, all others begin one."""

    START = "start"
    EXTEND = "extend"
    RESUME = "resume"
    BRANCH = "branch"
    EDIT = "edit"
    COMPACTION = "compaction"
    SIDE_CALL = "side_call"

    @property
    def advances(self) -> bool:
        return self in (Edge.EXTEND, Edge.RESUME)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, by what it means. `digests` has one for each message, equal where the messages are equal in meaning.

    The first `heads` messages are instructions; `tools` is the digest of the tools, b"" without any. `session` is what
    its session is called if its content does not say otherwise, "" for a name to be made; if it is `named`, the client
    said so, and that counts. `owner` is whose key it came with, and owners never meet. `one_shot` is a short question
    without tools or history; `at_s` is Unix time.
    """

    digests: tuple[bytes, ...]
    heads: int = 0
    tools: bytes = b""
    session: str = ""
    named: bool = False
    owner: str = ""
    one_shot: bool = False
    at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Turn:
    """A finished turn. Its id is 128 random bits in hex.

    `parent` is the deepest turn whose messages it strictly extends, `beside` the one it stands next to: what it edits,
    what it summarises, whom it works for. Of its `messages` the first `known_messages` were known from earlier turns;
    `hashes` are the points behind the last of them, at least of those that were not known: the others are found by way
    of the turn that is edited, else of the parent. `ends` has the point behind each answer, `head` the one behind the
    instructions. `memory` is what the model has read up to here, by its volatile spans.
    """

    id: str
    session: str
    owner: str
    line: str
    parent: str | None
    beside: str | None
    edge: Edge
    known_messages: int
    messages: int
    hashes: tuple[bytes, ...]
    ends: tuple[bytes, ...]
    head: bytes
    tools: bytes
    at_s: float
    memory: LineageMemory = FRESH


@dataclass(frozen=True, slots=True)
class Placed:
    """A request and its place; `hashes` is its whole chain. What it says of the tree may be old at commit.

    `memories` are those of the turn it goes on from, if that is one turn for sure. `memory` is what will have been read
    once it is answered.
    """

    asked: Asked
    hashes: tuple[bytes, ...]
    session: str
    edge: Edge
    known_messages: int
    parent: Turn | None
    beside: Turn | None
    memories: tuple[LineageMemory, ...] = ()
    memory: LineageMemory = FRESH

    def answered(self, call_ids: Iterable[str]) -> Placed:
        """With the calls that the client was given."""
        return replace(self, memory=self.memory.answered(call_ids))

    @property
    def head(self) -> bytes:
        return self.hashes[self.asked.heads - 1] if self.asked.heads else b""


def after(point: bytes, digest: bytes) -> bytes:
    """The point behind one more message."""
    return hashlib.sha256(point + digest).digest()


def chain(owner: str, digests: Sequence[bytes]) -> tuple[bytes, ...]:
    """The point behind each message; histories of different owners have none in common."""
    point, points = hashlib.sha256(owner.encode()).digest(), []
    for digest in digests:
        point = after(point, digest)
        points.append(point)
    return tuple(points)
