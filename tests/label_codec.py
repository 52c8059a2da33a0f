"""A codec that needs no MLX and writes no KV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from inference.cache.blocks import Root, unpack
from inference.cache.disk_records import BlockLabel, Flaw, Handle, Kind, Stored
from tests.cache_driver import KV, State

DIGEST_CHARS = 64


@dataclass(frozen=True, slots=True)
class LabelCodec:
    """A file is its label, behind a digest: KV and states of the tests' models follow from it."""

    root: Root

    def encode(self, label: BlockLabel, handle: Handle) -> Sequence[bytes | memoryview]:
        fields = {name: getattr(label, name) for name in BlockLabel.__slots__}
        text = json.dumps({name: one.hex() if isinstance(one, bytes) else one for name, one in fields.items()}).encode()
        return [sha256(text).hexdigest().encode(), text]

    def decode(self, raw: bytes) -> Stored | Flaw:
        label = self.read_label(raw)
        if isinstance(label, Flaw) or sha256(raw[DIGEST_CHARS:]).hexdigest().encode() != raw[:DIGEST_CHARS]:
            return Flaw.CORRUPT
        ids = (*range(label.start), *unpack(label.ids))
        if label.kind is Kind.STATE:
            return Stored(label, State(self.root, ids))
        return Stored(label, KV(self.root, ids, label.start, label.exact))

    def read_label(self, beginning: bytes) -> BlockLabel | Flaw:
        fields = json.loads(beginning[DIGEST_CHARS:])
        for name in ("root", "parent", "own", "ids"):
            fields[name] = bytes.fromhex(fields[name])
        return BlockLabel(**{**fields, "kind": Kind(fields["kind"])})
