"""Which model a block belongs to: two models share KV only when their fingerprints are equal.

Hashing 20 GB of weights takes half a minute; this reads a few megabytes. It covers the config, the header of every
weight file (names, types and shapes of all tensors), the file sizes and 1 KiB from the middle of every tensor. So any
training, quantisation or fused adapter shows, for those change all of a tensor. A few altered values within a tensor
may not: files are not protected against someone who edits them on purpose.

It does not cover where the model lies or when it was written, so a store survives a move and a second download; nor
the chat template and tokenizer, for KV depends on ids alone.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from inference.engine.safetensors_check import MAX_HEADER_BYTES
from inference.engine.settings import GRID_TOKENS
from inference.errors import InvalidModel
from inference.params import KVQuantisation

FORMAT_VERSION = 1
"""Of stored KV. To be raised whenever the same model, ids and settings would give other blocks: a change in how they
are cut or laid out here, or in how a model is computed by the MLX packages."""
_SAMPLE_BYTES = 1024


def fingerprint(directory: Path, kv: KVQuantisation | None = None) -> str:
    """64 hexadecimal digits for the model in a directory that has passed `check_model_files`.

    `kv` is how its KV is stored. Raises `InvalidModel` when the files have gone or changed under way.
    """
    form = "plain" if kv is None else f"{kv.bits}/{kv.group_size}/{kv.start_tokens}"
    digest = sha256(f"mlxd-kv {FORMAT_VERSION} grid {GRID_TOKENS} kv {form}".encode())
    try:
        digest.update(sha256((directory / "config.json").read_bytes()).digest())
        for path in sorted(directory.glob("model*.safetensors")) or [directory / "model.safetensors"]:
            digest.update(sha256(path.name.encode()).digest() + _file_digest(path))
    except (OSError, ValueError, KeyError, TypeError):
        raise InvalidModel("The model's files cannot be read any more.") from None
    return digest.hexdigest()


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError("header too long")
        header = file.read(length)
        digest = sha256(path.stat().st_size.to_bytes(8, "little") + header)
        for at in _sample_places(header):
            file.seek(8 + length + at)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()


def _sample_places(header: bytes) -> list[int]:
    """Where the middle of each tensor begins, in bytes behind the header, in the order of the file."""
    tensors = [entry["data_offsets"] for name, entry in json.loads(header).items() if name != "__metadata__"]
    return sorted(max(start, (start + stop - _SAMPLE_BYTES) // 2) for start, stop in tensors)
