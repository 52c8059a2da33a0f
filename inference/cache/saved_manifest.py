"""The file that keeps a saved conversation: whose it is, what it is called, and which blocks and states are its own.

It holds no text but the id and the title that its owner gave it. The tokens stand in the blocks.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from inference.cache.blocks import Root
from inference.cache.disk_records import KEY_BYTES

FORMAT: Final = 1
NAME: Final = re.compile(r"[0-9a-f]{32}")
"""What a conversation is called within the process, and its file on the disk."""
_TEXTS: Final = ("name", "owner", "id", "title", "model", "weights", "settings", "template")
_KEYS: Final = ("blocks", "states")


@dataclass(frozen=True, slots=True)
class Manifest:
    """`owner` may see and use it, "" is everyone without a key. `model` to `token_cost` are its `Root`.

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
    salt: bytes = field(repr=False)
    token_cost: float
    blocks: tuple[bytes, ...] = field(repr=False)
    states: tuple[bytes, ...] = field(repr=False)

    @property
    def keys(self) -> tuple[bytes, ...]:
        return (*self.blocks, *self.states)

    @property
    def root(self) -> Root:
        return Root(self.model, self.weights, self.settings, self.salt, self.template, self.token_cost)

    def packed(self) -> bytes:
        """The file."""
        plain: dict[str, Any] = {"format": FORMAT, **asdict(self), "salt": self.salt.hex()}
        for name in _KEYS:
            plain[name] = [key.hex() for key in plain[name]]
        return json.dumps(plain).encode()


def read_manifest(raw: bytes) -> Manifest | None:
    """None for a file that is not a whole manifest of this format."""
    try:
        told = json.loads(raw)
        if told.pop("format") != FORMAT:
            return None
        told["salt"] = bytes.fromhex(told["salt"])
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
    return texts and sane and NAME.fullmatch(found.name) is not None
