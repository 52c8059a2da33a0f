"""Chosen system prompts: which files, what a request with them looks like, and what came of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlxd.start_errors import InvalidSetting

MAX_FILE_BYTES: Final = 32 * 1024 * 1024
KEPT: Final = ("model", "tools", "tool_choice", "chat_template_kwargs", "enable_thinking", "reasoning_effort")
"""Fields of a request that change how its beginning is read."""
_BEGINNING: Final = ("system", "developer")
_ANYTHING: Final = {"role": "user", "content": "."}


@dataclass(frozen=True, slots=True)
class Chosen:
    """A file and the request whose beginning it stands for: its last message is only there to end the beginning."""

    name: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prewarmed:
    """What came of one. `cached_tokens` were there before, `state` is a word, `pinned` says that it stays."""

    file: str
    model: str
    state: str
    tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    pinned: bool = False


def read_chosen(paths: Sequence[str]) -> tuple[Chosen, ...]:
    """The files of the setting. Raises `InvalidSetting` for one that cannot be read, or is no request."""
    return tuple(_read(Path(path).expanduser()) for path in paths)


def _read(path: Path) -> Chosen:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise _invalid(path, f"cannot be read: {reason}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise _invalid(path, "is larger than 32 MiB")
    body = _request(path, text)
    if body is None:
        body = {"messages": [{"role": "system", "content": text}]}
    if not text.strip() or not _stable(body):
        raise _invalid(path, "holds no system prompt and no tools")
    kept: dict[str, Any] = {name: body[name] for name in KEPT if name in body}
    return Chosen(path.name, {**kept, "messages": [*_leading(body), _ANYTHING], "max_tokens": 1})


def _request(path: Path, text: str) -> dict[str, Any] | None:
    """The chat request in a file; None where it is plain text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        return value
    if path.suffix == ".json":
        raise _invalid(path, "is no chat request: an object with `messages`")
    return None


def _leading(body: dict[str, Any]) -> list[Any]:
    """The messages before anybody has said anything."""
    found = []
    for message in body["messages"]:
        if not isinstance(message, dict) or message.get("role") not in _BEGINNING:
            break
        found.append(message)
    return found


def _stable(body: dict[str, Any]) -> bool:
    return bool(_leading(body) or body.get("tools"))


def _invalid(path: Path, reason: str) -> InvalidSetting:
    return InvalidSetting(
        f"--prewarm {str(path)[:200]} {reason}.",
        cure="Name a file with a system prompt, or with a chat request as JSON (`messages`, `tools`).",
    )
