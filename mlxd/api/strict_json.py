"""JSON as RFC 8259 means it: one object in UTF-8, and nothing that two readers could read in two ways.

`json.loads` alone accepts NaN, duplicate keys (the last wins), lone surrogates, any depth and any top level. All of
these are refused here with a code, before a schema sees them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, NoReturn

from mlxd.api.errors import InvalidBody

MAX_DEPTH: Final = 64
MAX_KEYS: Final = 10_000
MAX_INTEGER_DIGITS: Final = 4_300
"""Python's own limit against quadratic conversion; no field of ours needs more than 19 digits."""

_BOM: Final = b"\xef\xbb\xbf"
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_SHOWN_KEY_CHARS: Final = 64


def parse_object(raw: bytes) -> dict[str, Any]:
    """The object in `raw`. Raises `InvalidBody`, whose message never repeats more of the body than one clipped key."""
    text = _decode(raw)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise InvalidBody(f"The body is not valid JSON: {error.msg} at character {error.pos}.") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # the only one left: an integer too long to convert
        raise InvalidBody(f"An integer in the body has more than {MAX_INTEGER_DIGITS} digits.") from None
    if not isinstance(value, dict):
        raise InvalidBody("The body must be a JSON object.", code="invalid_type")
    _check_depth(value)
    if _SURROGATE_ESCAPE.search(raw):
        _check_surrogates(value)
    return value


def _decode(raw: bytes) -> str:
    if not raw.strip():
        raise InvalidBody("The body is empty; a JSON object is expected.", code="empty_body")
    try:
        return raw.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"The body is not valid UTF-8 (byte {error.start}); JSON is sent as UTF-8."
        raise InvalidBody(message, code="invalid_encoding") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise InvalidBody(f"An object in the body has more than {MAX_KEYS} keys.", code="too_many_keys")
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        shown = twice[:_SHOWN_KEY_CHARS].encode("ascii", "backslashreplace").decode()[:_SHOWN_KEY_CHARS]
        raise InvalidBody(f"The key {json.dumps(shown)} stands twice in one object.", code="duplicate_key")
    return made


def _float(literal: str) -> float:
    value = float(literal)
    if value in (float("inf"), float("-inf")):
        raise InvalidBody("A number in the body is too large for a 64-bit float.", code="number_out_of_range")
    return value


def _constant(name: str) -> NoReturn:
    raise InvalidBody(f"{name} is not JSON; send a finite number or null.", code="invalid_number")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)


def measure_depth(value: Any, limit: int) -> int:
    """How deep `value` nests, itself being 1 when it is a container; counting stops at `limit` + 1.

    Level by level and containers only, because that is 20 times cheaper than a walk over every string.
    """
    level = [value] if isinstance(value, dict | list) else []
    depth = 0
    while level and depth <= limit:
        depth += 1
        level = [
            child
            for container in level
            for child in (container.values() if type(container) is dict else container)
            if type(child) is dict or type(child) is list
        ]
    return depth


def _check_depth(value: dict[str, Any]) -> None:
    if measure_depth(value, MAX_DEPTH) > MAX_DEPTH:
        raise _too_deep()


def _too_deep() -> InvalidBody:
    return InvalidBody(f"The body nests deeper than {MAX_DEPTH} levels.", code="too_deep")


def _check_surrogates(value: Any, dumps: Callable[..., str] = json.dumps) -> None:
    """A lone surrogate cannot be encoded, so encoding everything once finds it."""
    try:
        dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        message = "A string in the body holds half of a surrogate pair."
        raise InvalidBody(message, code="lone_surrogate") from None
