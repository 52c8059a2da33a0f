"""The file that keeps a saved conversation: whose it is, what it is called, and which blocks and states are its own.

It holds no text but the id and the title that its owner gave it. The tokens stand in the blocks, and of the salt there
is only what it makes of the tree's key.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, Final

from inference.cache.blocks import Root, root_key
from inference.cache.disk_records import KEY_BYTES

FORMAT: Final = 2
WITH_SALT: Final = 1
"""The format before: it had the salt itself, and no digest."""
NAME: Final = re.compile(r"[0-9a-f]{32}")
"""What a conversation is called within the process, and its file on the disk."""
_TEXTS: Final = ("name", "owner", "id", "title", "model", "weights", "settings", "template")
_KEYS: Final = ("blocks", "states")
_ROOT_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Manifest:
    """`owner` may see and use it, "" is everyone without a key. `model` to `token_cost` are its `Root`, `tree` its key.

    `blocks` are keys of files, each behind those it stands behind, `states` those of recurrent states. `tokens` are
    those of all blocks, `saved_s` is Unix time.
    """

    name: str
    owner: str
    id: str
    title: str
    saved_s: float
    tokens: int
    model: str
    weights: str
    settings: str
    template: str
    tree: bytes = field(repr=False)
    token_cost: float
    blocks: tuple[bytes, ...] = field(repr=False)
    states: tuple[bytes, ...] = field(repr=False)

    @property
    def keys(self) -> tuple[bytes, ...]:
        return (*self.blocks, *self.states)

    @property
    def root(self) -> Root:
        return Root.known_by(self.tree, self.model, self.weights, self.settings, self.template, self.token_cost)

    def packed(self) -> bytes:
        """The file."""
        plain: dict[str, Any] = {"format": FORMAT, **asdict(self), "tree": self.tree.hex()}
        for name in _KEYS:
            plain[name] = [key.hex() for key in plain[name]]
        return json.dumps({**plain, "digest": _digest(plain)}).encode()


def is_outdated(raw: bytes) -> bool:
    """Whether a manifest was written in the format before, which is to be written anew."""
    return raw.startswith(json.dumps({"format": WITH_SALT})[:-1].encode())


def _digest(plain: Mapping[str, Any]) -> str:
    return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_manifest(raw: bytes) -> Manifest | None:
    """None for a file that is not a whole manifest of this format or the one before."""
    try:
        told = json.loads(raw)
        if told["format"] == WITH_SALT:
            told["tree"] = root_key(f"{told['weights']}\0{told['settings']}", bytes.fromhex(told.pop("salt")))
        elif told["format"] == FORMAT and told.pop("digest") == _digest(told):
            told["tree"] = bytes.fromhex(told["tree"])
        else:
            return None
        del told["format"]
        for name in _KEYS:
            told[name] = tuple(_key(text) for text in told[name])
        found = Manifest(**told)
        return found if _is_sound(found) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _key(text: str) -> bytes:
    key = bytes.fromhex(text)
    if len(key) != KEY_BYTES:
        raise ValueError("not a key")
    return key


def _is_sound(found: Manifest) -> bool:
    numbers = (found.saved_s, found.tokens, found.token_cost)
    texts = all(isinstance(getattr(found, name), str) for name in _TEXTS)
    sane = all(type(one) in (int, float) and math.isfinite(one) and one >= 0 for one in numbers)
    return texts and sane and len(found.tree) == _ROOT_BYTES and NAME.fullmatch(found.name) is not None
