"""Files of blocks and states: what comes back is what went in, and nothing else comes back at all."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.cache.blocks import Root, pack
from inference.cache.disk_records import LABEL_BYTES, BlockLabel, Flaw, Kind, Stored, block_name, state_name
from inference.engine import block_file
from inference.engine.block_file import SafetensorsCodec
from inference.engine.blocks import KVBlock, block_of, cut, joined
from inference.engine.packing import pack as pack_arrays
from inference.engine.snapshots import RecurrentSnapshot

ROOT = Root("model", "weights", "8/64/0", salt=b"key")
CODEC = SafetensorsCodec()
MUTATIONS = 10_000
DTYPES = [mx.float32, mx.float16, mx.bfloat16, mx.uint32, mx.int8]


def label(kind: Kind, tokens: int, start: int = 512) -> BlockLabel:
    ids, parent = pack(range(5, 5 + tokens)), sha256(b"before").digest()
    own = (block_name if kind is Kind.BLOCK else state_name)(parent, ids)
    return BlockLabel(kind, ROOT.key, parent, own, ids, start, start + tokens, True, "model", "weights", "8/64/0")


def block(tokens: int = 9, dtypes: tuple[mx.Dtype, ...] = (mx.float32, mx.bfloat16)) -> KVBlock:
    arrays = [(mx.random.normal((1, 2, tokens, 4)) * 50).astype(dtype) for dtype in dtypes for _ in range(2)]
    whole = pack_arrays(arrays)
    whole.wait()
    return block_of(512, 512 + tokens, whole, (2,) * len(dtypes))


def state() -> RecurrentSnapshot:
    taken = RecurrentSnapshot(516, pack_arrays([None, mx.random.normal((1, 3, 5)), mx.random.normal((1, 7)), None]))
    taken.packed.wait()
    return taken


def written(one: BlockLabel, handle: KVBlock | RecurrentSnapshot) -> bytes:
    return b"".join(CODEC.encode(one, handle))


def same(one: KVBlock | RecurrentSnapshot, other: KVBlock | RecurrentSnapshot) -> bool:
    left, right = (joined(it) if isinstance(it, KVBlock) else it.packed for it in (one, other))
    alike = all(a.dtype == b.dtype and mx.array_equal(a, b) for a, b in zip(left.stacks, right.stacks, strict=True))
    return alike and left.places == right.places


@given(tokens=st.integers(1, 256), dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_a_block_comes_back_bit_for_bit(tokens: int, dtypes: list[mx.Dtype]) -> None:
    made, one = block(tokens, tuple(dtypes)), label(Kind.BLOCK, tokens)
    back = CODEC.decode(written(one, made))
    assert isinstance(back, Stored) and back.label == one and back.label.is_sound
    assert isinstance(back.handle, KVBlock) and same(back.handle, made)
    assert (back.handle.start, back.handle.end, back.handle.per_layer) == (made.start, made.end, made.per_layer)


def test_a_state_comes_back_bit_for_bit() -> None:
    one, taken = label(Kind.STATE, 4), state()
    back = CODEC.decode(written(one, taken))
    assert isinstance(back, Stored) and isinstance(back.handle, RecurrentSnapshot)
    assert back.label == one and back.handle.depth == 516 and same(back.handle, taken)


def test_views_and_parts_are_written_as_what_they_show() -> None:
    whole = block(20)
    part = cut(whole, 521)
    assert same(CODEC.decode(written(label(Kind.BLOCK, 20), whole.parted(7))).handle, whole)  # type: ignore[union-attr]
    back = CODEC.decode(written(label(Kind.BLOCK, 9), part))
    assert isinstance(back, Stored) and same(back.handle, part)  # type: ignore[arg-type]


def test_what_one_thread_wrote_another_reads_for_a_third() -> None:
    """The disk's thread encodes what the worker evaluated, and what it decodes the worker can compute with."""
    made, found = block(), []

    def disk() -> None:
        found.append(CODEC.decode(written(label(Kind.BLOCK, 9), made)))
        mx.clear_streams()

    thread = threading.Thread(target=disk)
    thread.start()
    thread.join()
    (back,) = found
    assert isinstance(back, Stored) and isinstance(back.handle, KVBlock)
    mx.eval(mx.concatenate([array for array in joined(back.handle).arrays if array is not None][:2], axis=2) + 1)


def test_the_file_is_sound_to_others(tmp_path: Path) -> None:
    """It is safetensors: MLX reads it without us."""
    made, path = block(), tmp_path / "one.safetensors"
    path.write_bytes(written(label(Kind.BLOCK, 9), made))
    found, metadata = mx.load(str(path), return_metadata=True)  # type: ignore[misc]
    assert metadata["format"] == block_file.FORMAT
    assert all(mx.array_equal(found[f"stack.{at}"], stack) for at, stack in enumerate(joined(made).stacks))


def test_the_label_is_read_from_the_beginning_alone() -> None:
    one = label(Kind.BLOCK, 256)
    raw = written(one, block(256, tuple(DTYPES)))
    assert CODEC.read_label(raw[:LABEL_BYTES]) == one
    assert CODEC.read_label(raw[:100]) is Flaw.CORRUPT and CODEC.read_label(b"") is Flaw.CORRUPT


# --- what is not served ---------------------------------------------------------------------------------------------


def _mutants(raw: bytes, rng: random.Random) -> bytes:
    at, more = rng.randrange(len(raw)), rng.randrange(1, 9)
    match rng.randrange(6):
        case 0:
            return raw[:at] + bytes([raw[at] ^ (1 << rng.randrange(8))]) + raw[at + 1 :]
        case 1:
            return raw[:at]
        case 2:
            return raw + rng.randbytes(more)
        case 3:
            return raw[:at] + raw[at + more :] if raw[at : at + more] else raw[:-1]
        case 4:
            return raw[:at] + rng.randbytes(more) + raw[at:]
        case _:
            return raw[:at] + bytes(len(raw) - at) if any(raw[at:]) else raw[:-1]


def test_ten_thousand_mutated_files_are_never_served() -> None:
    rng, outcomes = random.Random(6), set()
    files = [written(label(Kind.BLOCK, 9), block()), written(label(Kind.STATE, 4), state())]
    for number in range(MUTATIONS):
        raw = files[number % 2]
        mutant = _mutants(raw, rng)
        assert mutant != raw
        outcomes.add(CODEC.decode(mutant))  # type: ignore[arg-type]
        CODEC.read_label(mutant)
    assert outcomes == {Flaw.CORRUPT}


def _resealed(raw: bytes, change: Callable[[dict[str, dict[str, object]]], None], body: bytes = b"") -> bytes:
    """A file with another header and a digest that fits: what only somebody who means harm would write."""
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    whole = len(text).to_bytes(8, "little") + text + raw[8 + length :] + body
    at = 8 + len(b'{"__metadata__":{"sha256":"')
    digest = sha256(whole[:at] + whole[at + 64 :]).hexdigest().encode()
    return whole[:at] + digest + whole[at + 64 :]


FORGERIES: dict[str, Callable[[dict[str, dict[str, object]]], None]] = {
    "type of the same size": lambda header: header["stack.0"].update(dtype="NONE"),
    "wider type": lambda header: header["stack.0"].update(dtype="F64"),
    "other shape": lambda header: header["stack.0"].update(shape=[4, 2, 9, 8]),
    "negative shape": lambda header: header["stack.0"].update(shape=[-2, -2, 9, 4]),
    "huge shape": lambda header: header["stack.0"].update(shape=[2**62, 2, 9, 4]),
    "shape that is text": lambda header: header["stack.0"].update(shape="2"),
    "other offsets": lambda header: header["stack.0"].update(data_offsets=[4, 8]),
    "no tensor": lambda header: header.pop("stack.0") and None,
    "places beyond": lambda header: header["__metadata__"].update(places="[0,0,1,7]"),
    "places twice": lambda header: header["__metadata__"].update(places="[0,0,0,1]"),
    "places of nothing": lambda header: header["__metadata__"].update(places="{}"),
    "layers of others": lambda header: header["__metadata__"].update(layers="[2]"),
    "other kind": lambda header: header["__metadata__"].update(kind="gift"),
    "hex that is none": lambda header: header["__metadata__"].update(ids="zz"),
    "tokens that are not there": lambda header: header["__metadata__"].update(end="600"),
    "no metadata": lambda header: header.update(__metadata__={"sha256": "0" * 64}),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_header_is_refused(forgery: str) -> None:
    raw = _resealed(written(label(Kind.BLOCK, 9), block()), FORGERIES[forgery])
    assert CODEC.decode(raw) is Flaw.CORRUPT


def test_a_digest_that_fits_is_needed_and_enough() -> None:
    """Otherwise the forgeries above would prove nothing."""
    raw = written(label(Kind.BLOCK, 9), block())
    assert isinstance(CODEC.decode(_resealed(raw, lambda _header: None)), Stored)
    assert CODEC.decode(_resealed(raw, lambda _header: None, b"more")) is Flaw.CORRUPT


def test_another_version_is_stale_and_not_corrupt() -> None:
    raw = written(label(Kind.BLOCK, 9), block())
    assert CODEC.decode(_resealed(raw, lambda header: header["__metadata__"].update(format="mlxd-kv-0"))) is Flaw.STALE


@pytest.mark.parametrize("other", [{"ids": pack(range(9))}, {"start": 0, "end": 9}, {"end": 522}, {"own": b"x" * 32}])
def test_a_label_that_its_name_does_not_follow_from_is_unsound(other: dict[str, object]) -> None:
    one = label(Kind.BLOCK, 9)
    assert one.is_sound and not replace(one, **other).is_sound  # type: ignore[arg-type]


def test_a_flipped_bit_in_any_byte_of_a_small_file_is_seen() -> None:
    raw = written(label(Kind.STATE, 0), state())
    assert all(CODEC.decode(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]) is Flaw.CORRUPT for at in range(len(raw)))
