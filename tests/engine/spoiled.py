"""Models that are spoiled, and the error with which they are refused."""

from __future__ import annotations

import gc
import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from inference.engine import memory
from inference.engine.loader import MlxLoader
from inference.errors import ModelError
from inference.ports import ModelRef

REFUSED_WITHIN_S = 0.05
SLACK = 10
CONSTANTS_BYTES = 64
"""What the module of an architecture holds once it is imported: 8 bytes, seen where a refusal is what imports it."""


def refusal(loader: MlxLoader, path: Path) -> ModelError:
    """The error a directory is refused with: at once, with nothing allocated, naming no path."""
    memory.release_unused()
    gc.freeze()  # a refusal collects garbage, and this process's heap holds much that a daemon's does not
    before, began = mx.get_active_memory(), time.thread_time()
    try:
        with pytest.raises(ModelError) as caught:
            loader.load(ModelRef("spoiled", path))
        took_s = time.thread_time() - began  # it waits for nobody, and other work on the machine does not count
    finally:
        gc.unfreeze()
    assert took_s < REFUSED_WITHIN_S * SLACK
    assert mx.get_active_memory() <= before + CONSTANTS_BYTES
    assert str(path) not in caught.value.message and str(path.parent) not in caught.value.message
    return caught.value


def read_header(file: Path) -> tuple[dict[str, Any], bytes]:
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write_file(file: Path, header: object, body: bytes, *, length: int | None = None) -> None:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(encoded) if length is None else length) + encoded + body)


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        header, body = read_header(file)
        change(header["model.norm.weight"])
        write_file(file, header, body)

    return spoil


def edit_file(change: Callable[[dict[str, Any], bytes], tuple[object, bytes]]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        write_file(file, *change(*read_header(file)))

    return spoil


def header_length(length: int) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        write_file(file, *read_header(file), length=length)

    return spoil


CORRUPTIONS: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b"") and None,
    "seven_bytes": lambda file: file.write_bytes(b"\0" * 7) and None,
    "header_beyond_file": header_length(2**31),
    "header_100_mb": header_length(100 * 2**20 + 1),
    "header_2_64": header_length(2**64 - 1),
    "header_zero": header_length(0),
    "not_json": edit_file(lambda _header, body: (b"{" + b"x" * 64, body)),
    "not_utf8": edit_file(lambda _header, body: (b'{"\xff": 1}', body)),
    "a_list": edit_file(lambda _header, body: (b"[1, 2]", body)),
    "deep_json": edit_file(lambda _header, body: (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, body)),
    "duplicate_tensor": edit_file(
        lambda header, body: (json.dumps(header).replace("model.norm.weight", "lm_head.weight").encode(), body)
    ),
    "truncated_body": edit_file(lambda header, body: (header, body[:-1])),
    "trailing_bytes": edit_file(lambda header, body: (header, body + b"\0")),
    "unknown_type": edit(lambda entry: entry.update(dtype="F31")),
    "type_is_a_list": edit(lambda entry: entry.update(dtype=["F32"])),
    "other_type": edit(lambda entry: entry.update(dtype="F16")),
    "negative_shape": edit(lambda entry: entry.update(shape=[-48])),
    "float_shape": edit(lambda entry: entry.update(shape=[48.0])),
    "huge_shape": edit(lambda entry: entry.update(shape=[2**62, 2**62])),
    "larger_shape": edit(lambda entry: entry.update(shape=[49])),
    "offsets_reversed": edit(lambda entry: entry.update(data_offsets=entry["data_offsets"][::-1])),
    "offsets_beyond": edit(lambda entry: entry.update(data_offsets=[2**40, 2**40 + 192])),
    "offsets_negative": edit(lambda entry: entry.update(data_offsets=[-192, 0])),
    "overlap": edit(lambda entry: entry.update(data_offsets=[0, 192])),
    "missing_field": edit(lambda entry: entry.pop("shape")),
    "unknown_field": edit(lambda entry: entry.update(extra=1)),
    "metadata_is_a_list": edit_file(lambda header, body: (header | {"__metadata__": [1]}, body)),
    "metadata_not_text": edit_file(lambda header, body: (header | {"__metadata__": {"a": 1}}, body)),
}
