"""Which files a prompt needs: blocks behind those in memory, the end of one inside a block, a recurrent state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from inference.cache.blocks import BLOCK_TOKENS, common_tokens, token_count, token_slice
from inference.cache.disk_index import DiskEntry, DiskIndex
from inference.cache.disk_records import KEY_BYTES, Kind, block_name, state_name

WORTH_READING_TOKENS: Final = 16
"""Less is sooner computed than read."""
COMPARED: Final = 64
"""Of what goes on differently inside a block, so many of the newest are looked at: each costs reading a label once."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a prompt would like to have. `digests` are those of its root and of the whole blocks in memory, in order.

    `packed` are its ids, of which `limit` may be reused; `in_memory_tokens` can be already, of `matched_tokens` whose
    blocks are there. `room_bytes` is what may be read at most. `session` is whose prompt it is.
    """

    root: bytes
    digests: tuple[bytes, ...] = field(repr=False)
    packed: bytes = field(repr=False)
    limit: int
    matched_tokens: int
    in_memory_tokens: int
    needs_state: bool
    bitwise: bool
    room_bytes: int
    session: str = ""

    def ids(self, start: int, stop: int) -> bytes:
        return token_slice(self.packed, start, min(stop, self.limit))


@dataclass(frozen=True, slots=True)
class Plan:
    """Files to read, blocks in order, a state last. `until` is the depth from which the prompt then goes on.

    `at_end`: nothing on the disk goes on behind it, as far as names tell.
    """

    blocks: tuple[DiskEntry, ...] = ()
    state: DiskEntry | None = None
    until: int = 0
    at_end: bool = False

    def __bool__(self) -> bool:
        return bool(self.blocks or self.state)


def may_help(index: DiskIndex, want: Want) -> bool:
    """Whether it is worth asking, at the price of a few look-ups: may be asked from any thread.

    A state can stand anywhere on the path; blocks only behind the last one in memory.
    """
    on_path = want.digests if want.needs_state else want.digests[-1:]
    behind = want.limit - want.in_memory_tokens
    return behind >= WORTH_READING_TOKENS and any(index.has_behind(digest[:KEY_BYTES]) for digest in on_path)


def forecast(index: DiskIndex, want: Want) -> Plan:
    """What `plan` would find, by names alone: the end of a block that only begins like the prompt is left out.

    May be asked from any thread.
    """
    return plan(index, want, lambda entry: entry.ids or b"")


def plan(index: DiskIndex, want: Want, ids_of: Callable[[DiskEntry], bytes]) -> Plan:
    """`ids_of` reads the label of a file, which also tells whether it is exact. Empty when nothing is worth reading."""
    digests, blocks = _whole_blocks(index, want)
    depth = max((len(digests) - 1) * BLOCK_TOKENS, want.matched_tokens)
    at_end = not index.has_behind(digests[-1][:KEY_BYTES])
    if not want.bitwise and (part := _part(index, want, digests, ids_of)) is not None:
        entry, tokens = part
        reach = (len(digests) - 1) * BLOCK_TOKENS + tokens
        if reach > depth:
            blocks, depth, at_end = [*blocks, entry], reach, tokens == entry.tokens
    state = None
    if want.needs_state:
        if (state := _deepest_state(index, want, digests, depth, ids_of)) is None:
            return Plan()
        depth = state.end
        blocks = [block for block in blocks if block.start < depth]
    return _worth(want, blocks, state, depth, at_end)


def _worth(want: Want, blocks: list[DiskEntry], state: DiskEntry | None, depth: int, at_end: bool) -> Plan:
    """What does not fit into memory is not read, from its end on; with a state it is all or nothing."""
    nbytes = sum(block.nbytes for block in blocks) + (state.nbytes if state is not None else 0)
    at_end &= nbytes <= want.room_bytes
    while nbytes > want.room_bytes and blocks and state is None:
        nbytes -= blocks[-1].nbytes
        depth = blocks.pop().start
    if nbytes > want.room_bytes or depth - want.in_memory_tokens < WORTH_READING_TOKENS:
        return Plan()
    return Plan(tuple(blocks), state, depth, at_end)


def _whole_blocks(index: DiskIndex, want: Want) -> tuple[list[bytes], list[DiskEntry]]:
    """The path, in memory and on the disk, and the blocks of it that are on the disk only."""
    digests, blocks = list(want.digests), []
    at = (len(digests) - 1) * BLOCK_TOKENS
    while at + BLOCK_TOKENS <= want.limit:
        digest = block_name(digests[-1], want.ids(at, at + BLOCK_TOKENS))
        entry = index.get(digest[:KEY_BYTES])
        if entry is None or (want.bitwise and entry.exact is False):
            break
        digests.append(digest)
        blocks.append(entry)
        at += BLOCK_TOKENS
    return digests, blocks


def _part(
    index: DiskIndex, want: Want, digests: Sequence[bytes], ids_of: Callable[[DiskEntry], bytes]
) -> tuple[DiskEntry, int] | None:
    """The block at the end of the path that shares most tokens with the prompt, and how many; rather one that is used
    up than one that goes on: it is smaller."""
    at = (len(digests) - 1) * BLOCK_TOKENS
    ahead = want.ids(at, at + BLOCK_TOKENS)
    near = [entry for entry in index.behind(digests[-1][:KEY_BYTES]) if entry.kind is Kind.BLOCK][-COMPARED:]
    if not ahead or not near:
        return None
    shared = [(_shared(entry, digests[-1], ahead, ids_of), entry) for entry in near]
    tokens, best = max(shared, key=lambda one: (one[0], -one[1].tokens))
    return (best, tokens) if tokens else None


def _shared(entry: DiskEntry, parent: bytes, ahead: bytes, ids_of: Callable[[DiskEntry], bytes]) -> int:
    """How many tokens a block shares with what is ahead. If it is all of the block, its name says so."""
    ids = token_slice(ahead, 0, entry.tokens)
    if token_count(ids) == entry.tokens and block_name(parent, ids).startswith(entry.key):
        return entry.tokens
    return common_tokens(ids_of(entry), ahead)


def _deepest_state(
    index: DiskIndex, want: Want, digests: Sequence[bytes], depth: int, ids_of: Callable[[DiskEntry], bytes]
) -> DiskEntry | None:
    """Of those within `depth` that bring more than is in memory; their tokens are in their names."""
    for number in range(len(digests) - 1, -1, -1):
        at = number * BLOCK_TOKENS
        fitting = [
            entry
            for entry in index.behind(digests[number][:KEY_BYTES])
            if entry.kind is Kind.STATE
            and want.in_memory_tokens < entry.end <= depth
            and _fits(entry, want, digests, at)
        ]
        for entry in sorted(fitting, key=lambda entry: -entry.end):
            if not want.bitwise or _may_be_exact(entry, ids_of):
                return entry
    return None


def _fits(entry: DiskEntry, want: Want, digests: Sequence[bytes], at: int) -> bool:
    ids = want.ids(at, entry.end)
    named = state_name(digests[at // BLOCK_TOKENS], ids)[:KEY_BYTES] == entry.key
    return named and token_count(ids) == entry.tokens and not (want.bitwise and ids)


def _may_be_exact(entry: DiskEntry, ids_of: Callable[[DiskEntry], bytes]) -> bool:
    """A state is large: its label is read first."""
    if entry.exact is None:
        ids_of(entry)
    return entry.exact is not False
