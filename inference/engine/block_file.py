"""Blocks and recurrent states as files: safetensors, with a label and a digest in the metadata.

The digest covers every byte of a file but its own 64 and stands at a fixed place, so a file is judged before anything
in it is read: what was torn, flipped or cut is never parsed. What passes is still parsed with suspicion, for a digest
keeps nobody from writing a file of his own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import mlx.core as mx

from inference.cache.disk_records import BlockLabel, Flaw, Handle, Kind, Stored
from inference.engine.blocks import KVBlock, block_of, joined
from inference.engine.packing import Packed, packed
from inference.engine.snapshots import RecurrentSnapshot

FORMAT: Final = "mlxd-kv-1"
_BEFORE_DIGEST: Final = b'{"__metadata__":{"sha256":"'
_LENGTH_BYTES: Final = 8
_DIGEST_AT: Final = _LENGTH_BYTES + len(_BEFORE_DIGEST)
_DIGEST_CHARS: Final = 64
_ALIGNMENT: Final = 8
_MAX_HEADER_BYTES: Final = 1024 * 1024
_TOKEN_AXIS: Final = 2
_TYPES: Final = {
    "F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16,
    "U32": mx.uint32, "U16": mx.uint16, "U8": mx.uint8,
    "I64": mx.int64, "I32": mx.int32, "I16": mx.int16, "I8": mx.int8, "BOOL": mx.bool_,
}  # fmt: skip
_NAMES: Final = {dtype: name for name, dtype in _TYPES.items()}


class SafetensorsCodec:
    """Implements `BlockCodec`. On a thread that decodes, MLX streams are made: release them with it."""

    def encode(self, label: BlockLabel, handle: Handle) -> Sequence[bytes | memoryview]:
        """The header, then the stacks as they lie in memory, uncopied. Raises `TypeError` for other handles."""
        whole, layers = _contents(handle)
        stacks = [_bytes(stack) for stack in whole.stacks]
        header = _header(label, whole, layers)
        length = len(header).to_bytes(_LENGTH_BYTES, "little")
        digest = sha256(length + header[: len(_BEFORE_DIGEST)])
        digest.update(header[len(_BEFORE_DIGEST) + _DIGEST_CHARS :])
        for stack in stacks:
            digest.update(stack)
        sealed = _BEFORE_DIGEST + digest.hexdigest().encode() + header[len(_BEFORE_DIGEST) + _DIGEST_CHARS :]
        return [length + sealed, *stacks]

    def decode(self, raw: bytes) -> Stored | Flaw:
        """The handle's arrays are copies, evaluated on the CPU: the device is left to the worker."""
        if not _is_whole(raw):
            return Flaw.CORRUPT
        try:
            metadata, tensors, at = _parsed(raw)
            if metadata["format"] != FORMAT:
                return Flaw.STALE
            label = _label(metadata)
            return Stored(label, _handle(label, metadata, tensors, memoryview(raw)[at:]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            return Flaw.CORRUPT

    def read_label(self, beginning: bytes) -> BlockLabel | Flaw:
        try:
            metadata, _, _ = _parsed(beginning)
            return _label(metadata) if metadata["format"] == FORMAT else Flaw.STALE
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return Flaw.CORRUPT


# --- writing --------------------------------------------------------------------------------------------------------


def _contents(handle: Handle) -> tuple[Packed, tuple[int, ...]]:
    """The arrays of a handle, and how many of them each layer has (a state does not say)."""
    if isinstance(handle, KVBlock):
        with mx.stream(mx.cpu):
            return joined(handle), handle.per_layer
    if isinstance(handle, RecurrentSnapshot):
        return handle.packed, ()
    raise TypeError(f"a {type(handle).__name__} cannot be written")


def _bytes(stack: mx.array) -> bytes | memoryview:
    view = memoryview(stack)  # any evaluated array has the buffer protocol
    return view.cast("B") if view.c_contiguous else view.tobytes()


def _header(label: BlockLabel, whole: Packed, layers: tuple[int, ...]) -> bytes:
    """Padded with blanks, as the format allows, so that tensors begin aligned."""
    metadata = {
        "sha256": "0" * _DIGEST_CHARS,
        "format": FORMAT,
        "kind": str(label.kind),
        "root": label.root.hex(),
        "parent": label.parent.hex(),
        "own": label.own.hex(),
        "ids": label.ids.hex(),
        "start": str(label.start),
        "end": str(label.end),
        "exact": str(int(label.exact)),
        "model": label.model,
        "weights": label.weights,
        "settings": label.settings,
        "places": json.dumps(whole.places),
        "layers": json.dumps(layers),
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for number, stack in enumerate(whole.stacks):
        span = [at, at + int(stack.nbytes)]
        header[f"stack.{number}"] = {"dtype": _NAMES[stack.dtype], "shape": list(stack.shape), "data_offsets": span}
        at = span[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % _ALIGNMENT)


# --- reading --------------------------------------------------------------------------------------------------------


def _is_whole(raw: bytes) -> bool:
    """Whether every byte is the one that was written."""
    view = memoryview(raw)
    digest = sha256(view[:_DIGEST_AT])
    digest.update(view[_DIGEST_AT + _DIGEST_CHARS :])
    return bytes(view[_DIGEST_AT : _DIGEST_AT + _DIGEST_CHARS]) == digest.hexdigest().encode()


def _parsed(raw: bytes) -> tuple[dict[str, str], dict[str, Any], int]:
    """The metadata, the table of tensors, and where these begin. Raises `ValueError` and its like."""
    length = int.from_bytes(raw[:_LENGTH_BYTES], "little")
    begin = _LENGTH_BYTES + length
    if length > _MAX_HEADER_BYTES or begin > len(raw):
        raise ValueError("no room for the header")
    tensors = json.loads(raw[_LENGTH_BYTES:begin])
    return tensors.pop("__metadata__"), tensors, begin


def _label(metadata: dict[str, str]) -> BlockLabel:
    return BlockLabel(
        Kind(metadata["kind"]),
        bytes.fromhex(metadata["root"]),
        bytes.fromhex(metadata["parent"]),
        bytes.fromhex(metadata["own"]),
        bytes.fromhex(metadata["ids"]),
        int(metadata["start"]),
        int(metadata["end"]),
        metadata["exact"] == "1",
        metadata["model"],
        metadata["weights"],
        metadata["settings"],
    )


def _handle(label: BlockLabel, metadata: dict[str, str], tensors: dict[str, Any], body: memoryview) -> Handle:
    places, layers = _counts(metadata["places"]), _counts(metadata["layers"])
    with mx.stream(mx.cpu):
        stacks = _stacks(tensors, body)
        _require_order(places, [stack.shape[0] for stack in stacks])
        whole = packed(stacks, places)
        whole.wait()
    if label.kind is Kind.STATE:
        return RecurrentSnapshot(label.end, whole)
    tokens = label.end - label.start
    if sum(layers) != len(places) or any(
        stack.ndim <= _TOKEN_AXIS or stack.shape[_TOKEN_AXIS] != tokens for stack in stacks
    ):
        raise ValueError("the arrays are not those of the label")
    return block_of(label.start, label.end, whole, layers)


def _counts(text: str) -> tuple[int, ...]:
    numbers = json.loads(text)
    if not all(type(number) is int for number in numbers):
        raise ValueError("not a list of whole numbers")
    return tuple(numbers)


def _require_order(places: tuple[int, ...], sizes: list[int]) -> None:
    """Every array of every stack has its place, and none has two."""
    used = [places.count(stack) for stack in range(len(sizes))]
    if used != sizes or any(place < -1 or place >= len(sizes) for place in places):
        raise ValueError("places and stacks disagree")


def _stacks(tensors: dict[str, Any], body: memoryview) -> list[mx.array]:
    """Tensors lie one behind the other in the order of their numbers and fill the file."""
    stacks, at = [], 0
    for number in range(len(tensors)):
        entry = tensors[f"stack.{number}"]
        dtype, shape = _TYPES[entry["dtype"]], _counts(json.dumps(entry["shape"]))
        end = at + math.prod(shape) * dtype.size
        if entry["data_offsets"] != [at, end] or end > len(body) or min(shape, default=0) < 1:
            raise ValueError("a tensor is not where it should be")
        raw: Any = body[at:end]  # MLX copies any buffer, though its types do not say so
        stacks.append(mx.array(raw).view(dtype).reshape(shape))
        at = end
    if at != len(body):
        raise ValueError("there are bytes behind the last tensor")
    return stacks
