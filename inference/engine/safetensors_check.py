"""Whether a safetensors file is what it says, before anything maps it into device memory.

The file is eight bytes of header length, a JSON header, then tensor bytes. A sound file's tensors fill those bytes
exactly: no gap, no overlap, nothing beyond the end, and each as large as its shape and type say.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 32 * 1024**2
"""The format allows 100 MB; no shard comes near: a hundred thousand tensors take 12."""
MAX_HEADER_VALUES = 1_000_000
"""A tensor has eight. Counted before parsing, for a value takes up to 72 bytes: 90 MB of `[],` became 2 GB."""
_MAX_RANK = 16
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class CorruptFileError(Exception):
    """The file is not sound. The message says why and holds nothing from the file."""


@dataclass(frozen=True, slots=True)
class TensorFile:
    """What a sound file holds: tensor names and their bytes, header left out."""

    names: frozenset[str]
    tensor_bytes: int


def check_safetensors(path: Path) -> TensorFile:
    """Reads the header only. Raises `CorruptFileError`, `OSError`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise CorruptFileError("is too short for a header")
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER_BYTES:
            raise CorruptFileError(f"has a header above {MAX_HEADER_BYTES >> 20} MB")
        if length < 2 or 8 + length > size:
            raise CorruptFileError("has a header longer than the file")
        header = _parse(file.read(length))
    return _check_tensors(header, size - 8 - length)


def _parse(raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise CorruptFileError("has a header that is not a JSON object")
    if sum(map(raw.count, (b",", b"[", b"{"))) > MAX_HEADER_VALUES:
        raise CorruptFileError(f"has a header of more than {MAX_HEADER_VALUES} values")
    try:
        header = json.loads(raw.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise CorruptFileError("has a header that is not JSON") from None
    if not isinstance(header, dict):
        raise CorruptFileError("has a header that is not a JSON object")
    metadata = header.pop("__metadata__", None) or {}  # MLX itself writes null for none
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CorruptFileError("has metadata that is not text")
    return header


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CorruptFileError("names a tensor twice")
    return found


def _check_tensors(header: dict[str, Any], body_bytes: int) -> TensorFile:
    spans = sorted(_span(entry) for entry in header.values())
    at = 0
    for start, stop in spans:
        if start != at:
            raise CorruptFileError("has tensors that overlap or leave a gap")
        at = stop
    if at != body_bytes:
        raise CorruptFileError("has tensors that do not fill it exactly")
    return TensorFile(frozenset(header), body_bytes)


def _span(entry: object) -> tuple[int, int]:
    """Byte range of one tensor, checked against its shape and type."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CorruptFileError("describes a tensor with unknown or missing fields")
    bits = _BITS.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if bits is None:
        raise CorruptFileError("has a tensor of unknown type")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or len(shape) > _MAX_RANK:
        raise CorruptFileError("has a tensor of impossible shape")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CorruptFileError("has a tensor at impossible offsets")
    if math.prod(shape) * bits != (offsets[1] - offsets[0]) * 8:
        raise CorruptFileError("has a tensor whose shape and bytes disagree")
    return offsets[0], offsets[1]


def _are_sizes(value: object) -> bool:
    """Whole numbers from 0 to 2**63 (`True` is an int to Python, and not to the format)."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)
