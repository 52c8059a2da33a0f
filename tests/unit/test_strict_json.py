"""Strict JSON: what every reader reads the same way is read; everything else is named and refused."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.api.errors import InvalidBody
from mlxd.api.strict_json import MAX_DEPTH, MAX_KEYS, measure_depth, parse_object

GOOD = b'{"messages": [{"role": "user", "content": "caf\xc3\xa9 \xf0\x9f\x91\x8d"}], "n": 1, "x": [1.5e3, null, true]}'


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return ('{"a":' + opening * (depth - 1) + closing * (depth - 1) + "}").encode()


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        pytest.param(b"", "empty_body", id="B02 empty"),
        pytest.param(b" \n\t", "empty_body", id="B02 blank"),
        pytest.param(b"{'a': 1}", "invalid_json", id="B01 single quotes"),
        pytest.param(b'{"a": 1,}', "invalid_json", id="B01 trailing comma"),
        pytest.param(b'{"a": 01}', "invalid_json", id="B01 leading zero"),
        pytest.param(b'{"a": +1}', "invalid_json", id="B01 plus"),
        pytest.param(b'{"a": .5}', "invalid_json", id="B01 bare fraction"),
        pytest.param(b'{"a": "\x01"}', "invalid_json", id="B01 raw control character"),
        pytest.param(b'{"a": "\\x41"}', "invalid_json", id="B01 unknown escape"),
        pytest.param(b"{a: 1}", "invalid_json", id="B01 bare key"),
        pytest.param(b'{"a": 1} // x', "invalid_json", id="B01 comment"),
        pytest.param(b"null", "invalid_type", id="B03 null"),
        pytest.param(b"[]", "invalid_type", id="B03 list"),
        pytest.param(b'"x"', "invalid_type", id="B03 string"),
        pytest.param(b"1", "invalid_type", id="B03 number"),
        pytest.param(b"true", "invalid_type", id="B03 true"),
        pytest.param(b"{} {}", "invalid_json", id="B04 two documents"),
        pytest.param(b"{}x", "invalid_json", id="B04 trailing garbage"),
        pytest.param(b"{}\x00", "invalid_json", id="B04 trailing NUL"),
        pytest.param(b'{"a": "\xff"}', "invalid_encoding", id="B07 invalid UTF-8"),
        pytest.param(b'{"a": "\xed\xa0\x80"}', "invalid_encoding", id="B07 encoded surrogate"),
        pytest.param(b'{"a": "\xc0\x80"}', "invalid_encoding", id="B07 overlong"),
        pytest.param('{"a": 1}'.encode("utf-16"), "invalid_encoding", id="B08 UTF-16 with BOM"),
        pytest.param('{"a": 1}'.encode("utf-16-le"), "invalid_json", id="B08 UTF-16"),
        pytest.param('{"a": 1}'.encode("utf-32"), "invalid_encoding", id="B08 UTF-32 with BOM"),
        pytest.param('{"a": 1}'.encode("utf-32-be"), "invalid_json", id="B08 UTF-32"),
        pytest.param(b'{"a": "\\ud800"}', "lone_surrogate", id="B09 high surrogate"),
        pytest.param(b'{"a": ["\\uDFFF x"]}', "lone_surrogate", id="B09 low surrogate"),
        pytest.param(b'{"\\udc00": 1}', "lone_surrogate", id="B09 surrogate in a key"),
        pytest.param(b'{"a": 1, "a": 1}', "duplicate_key", id="B11 duplicate"),
        pytest.param(b'{"x": [{"a": 1, "b": 2, "a": 3}]}', "duplicate_key", id="B11 nested duplicate"),
        pytest.param(b'{"a": 1, "\\u0061": 2}', "duplicate_key", id="B11 duplicate by escape"),
        pytest.param(nested(MAX_DEPTH + 1), "too_deep", id="B12 depth 65"),
        pytest.param(nested(MAX_DEPTH + 1, '{"a":', "}").replace(b":}", b":1}"), "too_deep", id="B12 objects"),
        pytest.param(nested(100_000), "too_deep", id="B13 depth 100,000"),
        pytest.param(b'{"a": ' + b"[" * 100_000, "too_deep", id="B13 unclosed"),
        pytest.param(b'{"a": ' + b"1" * 5000 + b"}", "invalid_json", id="B14 5,000 digits"),
        pytest.param(b'{"a": 1e999}', "number_out_of_range", id="B15 overflow"),
        pytest.param(b'{"a": -1e999}', "number_out_of_range", id="B15 negative overflow"),
        pytest.param(b'{"a": NaN}', "invalid_number", id="B16 NaN"),
        pytest.param(b'{"a": Infinity}', "invalid_number", id="B16 Infinity"),
        pytest.param(b'{"a": [-Infinity]}', "invalid_number", id="B16 -Infinity"),
        pytest.param(
            json.dumps({"a": {str(i): 0 for i in range(MAX_KEYS + 1)}}).encode(), "too_many_keys", id="B17 keys"
        ),
    ],
)
def test_refused(raw: bytes, code: str) -> None:
    with pytest.raises(InvalidBody) as refused:
        parse_object(raw)
    assert refused.value.code == code
    assert len(refused.value.message) < 200
    assert not any(word in refused.value.message for word in ("Traceback", "Error", "<class", "0x", "recursion"))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(GOOD, id="plain"),
        pytest.param(b" \r\n\t" + GOOD + b"\n", id="white space"),
        pytest.param(b'{"a": "\\ud83d\\udc4d \\u0000 \\u2028"}', id="B10 pair and NUL by escape"),
        pytest.param(nested(MAX_DEPTH), id="depth 64"),
        pytest.param(b'{"a": 1e308, "b": 1e-999, "c": -0.0}', id="extreme floats"),
        pytest.param(b'{"a": ' + b"1" * 400 + b"}", id="a long integer"),
        pytest.param(json.dumps({str(i): 0 for i in range(MAX_KEYS)}).encode(), id="10,000 keys"),
        pytest.param(b'{"a": {"b": 1}, "c": {"b": 1}}', id="one key in two objects"),
    ],
)
def test_accepted(raw: bytes) -> None:
    assert parse_object(raw) == json.loads(raw)


def test_a_byte_order_mark_is_accepted() -> None:
    assert parse_object(b"\xef\xbb\xbf" + GOOD) == json.loads(GOOD)


def test_truncated_at_each_byte() -> None:
    for end in range(len(GOOD)):
        with pytest.raises(InvalidBody):
            parse_object(GOOD[:end])


def test_a_duplicate_key_is_named_but_clipped() -> None:
    key = "\u202e" + "k" * 500
    with pytest.raises(InvalidBody) as refused:
        parse_object(json.dumps({"x": 1})[:-1].encode() + f', "{key}": 1, "{key}": 2}}'.encode())
    assert "kkk" in refused.value.message and len(refused.value.message) < 120 and refused.value.message.isascii()


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(value=st.dictionaries(st.text(), values, max_size=5), ascii_only=st.booleans())
def test_every_valid_object_survives(value: dict[str, Any], ascii_only: bool) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(raw=st.binary(max_size=200))
def test_any_bytes_give_an_object_or_our_error(raw: bytes) -> None:
    with suppress(InvalidBody):
        assert isinstance(parse_object(raw), dict)


def deep(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(deep, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(deep, value), default=0)
    return 0


@given(value=values)
def test_depth_is_what_the_naive_walk_says(value: Any) -> None:
    assert measure_depth(value, MAX_DEPTH) == deep(value)


def test_a_large_body_costs_milliseconds() -> None:
    message = {"role": "user", "content": "All work and no play. \u00e9\n" * 100}
    raw = json.dumps({"messages": [message] * 200}, ensure_ascii=False).encode()
    assert 480_000 < len(raw) < 560_000
    best_s = min(_timed(raw) for _ in range(5))
    assert best_s < 0.05  # 3 ms measured


def _timed(raw: bytes) -> float:
    began_s = time.thread_time()
    parse_object(raw)
    return time.thread_time() - began_s
