"""Content as bytes and back: what comes back is what was written, or the word that it cannot be read."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from inference.conversation.lineage_memory import LineageMemory, Seen, SeenSpan
from inference.conversation.spoken import RawTurn, SpokenTurn
from inference.messages import Message, Role, TextPart, ToolCall
from mlxd.ledger import memory_bytes, spoken_bytes
from mlxd.ledger.sealed import Unreadable, sealed

# any text that a JSON body can hold, halves of surrogate pairs too
TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
IDS = st.lists(st.integers(0, 2**32 - 1), max_size=40).map(lambda ids: array("I", ids).tobytes())
RAW = st.builds(
    RawTurn, IDS, st.lists(st.integers(0, 300_000), max_size=4).map(tuple), st.none() | st.integers(0, 9000)
)
TURNS = st.builds(SpokenTurn, RAW, TEXT, TEXT, st.lists(st.builds(ToolCall, TEXT, TEXT, TEXT), max_size=3).map(tuple))
PLACES = st.binary(min_size=32, max_size=32)
SPANS = st.builds(SeenSpan, TEXT, st.integers(0, 9000), TEXT, st.none() | TEXT)
MESSAGES = st.builds(
    Message,
    st.sampled_from(Role),
    st.lists(st.builds(TextPart, TEXT, TEXT), max_size=2).map(tuple),
    TEXT,
    st.lists(st.builds(ToolCall, TEXT, TEXT, TEXT), max_size=2).map(tuple),
    TEXT,
    TEXT,
    TEXT,
)
WHOLE = st.builds(
    Seen,
    st.just(b"") | st.binary(max_size=40) | PLACES,
    st.lists(SPANS, max_size=2).map(tuple),
    st.just("") | TEXT,
    st.none() | MESSAGES,
    st.just("") | TEXT,
)
MEMORIES = st.builds(
    LineageMemory,
    st.lists(st.builds(Seen, PLACES) | WHOLE, max_size=6).map(tuple),
    st.frozensets(TEXT, max_size=3),
    TEXT,
    st.floats(0, 1e11),
    st.booleans(),
)


@given(TURNS, PLACES)
def test_a_turn_comes_back_as_it_was(turn: SpokenTurn, place: bytes) -> None:
    assert spoken_bytes.decoded(spoken_bytes.encoded(turn, place), place) == turn


@given(MEMORIES, st.text("0123456789abcdef", min_size=32, max_size=32))
def test_a_memory_comes_back_as_it_was(memory: LineageMemory, turn_id: str) -> None:
    assert memory_bytes.decoded(memory_bytes.encoded(memory, turn_id), turn_id) == memory


@given(TURNS, MEMORIES, PLACES, st.data())
def test_what_was_changed_is_never_taken_for_anything(
    turn: SpokenTurn, memory: LineageMemory, place: bytes, data: st.DataObject
) -> None:
    turn_id = place.hex()[:32]
    for body, read in (
        (spoken_bytes.encoded(turn, place), lambda one: spoken_bytes.decoded(one, place)),
        (memory_bytes.encoded(memory, turn_id), lambda one: memory_bytes.decoded(one, turn_id)),
    ):
        at, stop = (data.draw(st.integers(0, len(body))) for _ in range(2))
        changed = body[:at] + data.draw(st.binary(max_size=20)) + body[max(at, stop) :]
        if changed != body:
            assert isinstance(read(changed), Unreadable)
        assert isinstance(read(data.draw(st.binary(max_size=80))), Unreadable)


@given(TURNS, MEMORIES, PLACES, PLACES)
def test_a_body_under_another_key_is_no_body(
    turn: SpokenTurn, memory: LineageMemory, place: bytes, other: bytes
) -> None:
    if place != other:
        assert spoken_bytes.decoded(spoken_bytes.encoded(turn, place), other) is Unreadable.DAMAGED
        assert memory_bytes.decoded(memory_bytes.encoded(memory, place.hex()), other.hex()) is Unreadable.DAMAGED


@given(st.binary(max_size=60), PLACES, st.integers(2, 255))
def test_a_sound_seal_around_anything_else_is_no_error_either(content: bytes, place: bytes, version: int) -> None:
    """As another version might write it, or a fault of this one."""
    for room, key in ((spoken_bytes, place), (memory_bytes, place.hex().encode())):
        name = key.decode() if room is memory_bytes else key
        assert room.decoded(sealed(version, key, content), name) is Unreadable.UNKNOWN_VERSION
        read = room.decoded(sealed(room.VERSION, key, content), name)
        assert isinstance(read, SpokenTurn if room is spoken_bytes else LineageMemory) or read is Unreadable.DAMAGED
