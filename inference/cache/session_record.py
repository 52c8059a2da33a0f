"""The file that remembers where a session's requests ended, for a process to come: hashes of blocks, and no text.

What a block is named by says which blocks stand before it, but not whose they are. It is a hint: what it names is used
as far as it is there, and every byte of that is checked as always.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any, Final

from inference.cache.blocks import Root
from inference.cache.disk_records import KEY_BYTES
from inference.cache.node import Node
from inference.cache.saved_manifest import NAME
from inference.cache.sessions import Session

FORMAT: Final = 1
MAX_ENDS: Final = 32
"""An agent and its sub-agents; the last used ones."""
_ROOT_BYTES: Final = 32
_TEXTS: Final = ("name", "by", "model", "weights", "settings", "template")
MAX_ASIDE: Final = 512
_KEYS: Final = ("ends", "earlier", "aside")


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """`ends` are keys of blocks at which requests of the session ended, in the process `by`, `earlier` those of the
    processes before it. A path whose last block is not whole has two: the end of its whole blocks is written first.
    `aside` is where side calls ended, and what memory no longer tells of: it goes with the session, and is not saved.

    `unsure`: only a one-shot ended there, which what comes next may not go on from. `model` to `token_cost` are its
    `Root`, `tree` its key.
    """

    name: str
    by: str
    unsure: bool
    model: str
    weights: str
    settings: str
    template: str
    tree: bytes = field(repr=False)
    token_cost: float
    ends: tuple[bytes, ...] = field(repr=False)
    earlier: tuple[bytes, ...] = field(default=(), repr=False)
    aside: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def root(self) -> Root:
        return Root.known_by(self.tree, self.model, self.weights, self.settings, self.template, self.token_cost)

    @property
    def keys(self) -> tuple[bytes, ...]:
        return (*self.earlier, *self.ends)

    @property
    def all_keys(self) -> tuple[bytes, ...]:
        """Of its side calls too."""
        return (*self.keys, *self.aside)

    def behind(self, before: SessionRecord | None, passed: Collection[bytes]) -> SessionRecord:
        """The same, with what another process knew of the session, but not what a way has `passed` since."""
        if before is None or before.tree != self.tree:
            return self
        goes_on = before.by != self.by and not before.unsure
        gone = {*passed, *self.ends}
        earlier = [key for key in (before.keys if goes_on else before.earlier) if key not in gone][-MAX_ENDS:]
        known = (*before.aside, *before.keys, *self.aside)
        aside = [key for key in dict.fromkeys(known) if key not in gone and key not in earlier]
        return replace(self, earlier=tuple(earlier), aside=tuple(aside)[-MAX_ASIDE:])

    def packed(self) -> bytes:
        """The file."""
        plain: dict[str, Any] = {"format": FORMAT, **asdict(self), "tree": self.tree.hex()}
        for name in _KEYS:
            plain[name] = [key.hex() for key in plain[name]]
        return json.dumps({**plain, "digest": _digest(plain)}).encode()


def record_of(session: Session, by: str) -> SessionRecord | None:
    """None for a session that has nothing in its tree."""
    entries = [entry for entry in session.ways if entry.attached and entry.root.key == session.root.key]
    ends = dict.fromkeys(key for entry in reversed(entries) for key in reversed(_ends(entry)))  # the last of equal ones
    if not ends:
        return None
    root = session.root
    told = (root.model, root.weights, root.settings, root.template, root.key, root.token_cost)
    aside = dict.fromkeys(key for node in session.aside if node.attached for key in _ends(node) if key not in ends)
    return SessionRecord(session.name, by, session.unsure, *told, tuple(ends)[:MAX_ENDS][::-1], aside=tuple(aside))


def _ends(entry: Node) -> tuple[bytes, ...]:
    """A block that is not whole is written when the process ends in order, or leaves memory."""
    whole = entry if entry.is_full or entry.parent is None else entry.parent
    nodes = (whole, entry) if whole is not entry else (entry,)
    return tuple(node.digest[:KEY_BYTES] for node in nodes if node.parent is not None)


def read_record(raw: bytes) -> SessionRecord | None:
    """None for a file that is not a whole record of this format."""
    try:
        told = json.loads(raw)
        if told["format"] != FORMAT or told.pop("digest") != _digest(told):
            return None
        del told["format"]
        told["tree"] = bytes.fromhex(told["tree"])
        for name in _KEYS:
            told[name] = tuple(bytes.fromhex(text) for text in told[name])
        found = SessionRecord(**told)
        return found if _is_sound(found) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digest(plain: Mapping[str, Any]) -> str:
    return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _is_sound(found: SessionRecord) -> bool:
    texts = all(isinstance(getattr(found, name), str) for name in _TEXTS)
    cost = found.token_cost
    sane = type(cost) in (int, float) and math.isfinite(cost) and cost >= 0
    keys = all(len(key) == KEY_BYTES for key in found.all_keys)
    return texts and sane and keys and len(found.tree) == _ROOT_BYTES and NAME.fullmatch(found.name) is not None
