"""Values as bytes on the wire, for folded and streamed answers alike."""

from __future__ import annotations

import json
import secrets
from typing import Any, Final

_LINE_BREAKS: Final = str.maketrans({"\u0085": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})
"""Not line ends to SSE, but to clients that split a stream with `str.splitlines`. JSON escapes the others itself."""


def dump(value: Any) -> bytes:
    """Compact JSON in UTF-8 that holds no line break of any kind."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if text.isascii():
        return text.encode("ascii")
    return text.translate(_LINE_BREAKS).encode("utf-8", "replace")


def new_id(prefix: str) -> str:
    """An unguessable id: 128 random bits in hex behind `prefix`."""
    return f"{prefix}{secrets.token_hex(16)}"
