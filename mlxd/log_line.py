"""What a log line may hold, whoever writes it.

Strings are escaped (a client cannot forge a line or drive the terminal), values that look like credentials are masked,
fields that would carry a prompt or an answer are dropped, and exceptions appear by class and place, never by message,
because a message can quote a prompt.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

MAX_CHARS = 2000
MAX_FRAMES = 12
CONTENT_FIELD = re.compile(
    "prompt|messages|message_text|content|completion|answer|reasoning|text|input|output|arguments|tool_arguments|body"
    "|query|query_string|headers|image|data"
)
CREDENTIAL = re.compile(r"(^|_)(auth|authorization|key|apikey|token|cookie|secret|password|credential)s?($|_)")
NOT_CREDENTIAL = frozenset({"key_id", "cache_key_id"})
SECRET_TEXT = re.compile(
    r"mlxd_(?:admin|sk)_[\w-]+|\bhf_\w{16,}|\bsk-[\w-]{8,}|(?i:bearer|basic) [\w.+/=~-]{8,}|data:[\w.+/-]+[;,][^\s\"']*"
)
URL_QUERY = re.compile(r"(https?://[^\s?\"'<>]+)\?[^\s\"'<>]*")
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
MASK, DROPPED = "[masked]", "[not logged]"


def escape(text: str) -> str:
    r"""`text` with controls, bidirectional marks, line separators and lone surrogates as `\x..` or `\u....`.

    >>> escape("a\nb\x1b[2J")
    'a\\x0ab\\x1b[2J'
    """
    return UNPRINTABLE.sub(lambda found: _code(ord(found[0])), text)


def _code(point: int) -> str:
    return f"\\x{point:02x}" if point <= 0xFF else f"\\u{point:04x}"


def _clean(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if CONTENT_FIELD.fullmatch(name):
        return DROPPED
    if name not in NOT_CREDENTIAL and CREDENTIAL.search(name):
        return MASK
    text = str(value)
    masked = URL_QUERY.sub(r"\1?" + MASK, SECRET_TEXT.sub(MASK, text[: 2 * MAX_CHARS]))  # a cut secret is still one
    return escape(masked if len(text) <= MAX_CHARS else f"{masked[:MAX_CHARS]}… ({len(text)} characters)")


def _clean_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: value if name.startswith("_") else _clean(name, value) for name, value in event.items()}


def first_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Libraries put reprs below the first line (asyncio: the exception with its message)."""
    event["event"] = str(event.get("event", "")).partition("\n")[0]
    return event


def _exception_by_place(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    given = event.pop("exc_info", None)
    event.pop("stack_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = f"{type(error).__module__}.{type(error).__qualname__}"
        frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
        event["at"] = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
        if error.__cause__ is not None:
            event["cause"] = type(error.__cause__).__qualname__
    return event


def _rename(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    first = {"ts": event.pop("timestamp"), "level": event.pop("level"), "event": event.pop("event", "")}
    return {**first, **event}


PROCESSORS: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _exception_by_place,
    _clean_event,
    _rename,
]


def as_json(_logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> str:
    """One JSON object a line."""
    return json.dumps(dict(event), ensure_ascii=False)


def as_text(_logger: WrappedLogger, _method: str, event: Mapping[str, Any]) -> str:
    """Time, level, event, then name=value."""
    rest = " ".join(f"{name}={_word(value)}" for name, value in event.items() if name not in ("ts", "level", "event"))
    return f"{event['ts']} {event['level']:<8} {event['event']} {rest}".rstrip()


def _word(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text or "=" in text or not text else text
