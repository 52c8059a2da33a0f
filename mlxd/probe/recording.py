"""Reads what clients were recorded to send: `CLIENT/RUN.jsonl`, and `RUN.responses.jsonl` with what was answered.

A line of the first has `seq`, `path` and `body`; one of the second `seq`, `reasoning`, `text` and `calls` (`id`,
`name`, `arguments`). Runs `s1t1`, `s1t2` are one session that was taken up again. Only chat completions are replayed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlxd.probe.asks import Message, Said

CHAT: Final = "/v1/chat/completions"
KEPT: Final = ("tools", "tool_choice", "parallel_tool_calls", "reasoning_effort")
"""Fields of a body that change what a model reads. Not `response_format`: the answer is held to the recorded one."""


class NotRecordings(Exception):
    """The folder holds none; the message is ready to show."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and the message that answered it, None where the answer was not kept.

    `session` is the client's, over several runs. Of `messages` only the text is left: `images` counts what is not.
    """

    session: str
    messages: tuple[Message, ...]
    fields: Mapping[str, Any]
    answer: Message | None = None
    images: int = 0

    @property
    def said(self) -> Said | None:
        """The answer as what shall be answered again."""
        if self.answer is None:
            return None
        functions = [call["function"] for call in self.answer.get("tool_calls") or ()]
        return Said(self.answer["content"] or "", tuple((one["name"], one["arguments"]) for one in functions))


@dataclass(frozen=True, slots=True)
class Recorded:
    """One client's chat requests in the order of its runs; `others` counts requests of other APIs."""

    client: str
    exchanges: tuple[Exchange, ...]
    others: int = 0


def read(folder: Path) -> list[Recorded]:
    """Every client of a folder. Raises `NotRecordings`."""
    found = [_client(path) for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    if not any(one.exchanges for one in found):
        raise NotRecordings(f"{folder} has no chat requests in files CLIENT/RUN.jsonl.")
    return found


def _client(folder: Path) -> Recorded:
    exchanges: list[Exchange] = []
    others = 0
    for file in sorted(folder.glob("*.jsonl")):
        if file.name.endswith(".responses.jsonl"):
            continue
        answered = {one["seq"]: one for one in _lines(file.with_name(f"{file.stem}.responses.jsonl"))}
        for request in _lines(file):
            if request["path"].partition("?")[0] == CHAT:
                exchanges.append(_exchange(file.stem, request, answered.get(request["seq"])))
            else:
                others += 1
    return Recorded(folder.name, tuple(exchanges), others)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if not file.exists():
        return
    try:
        for line in file.read_text().splitlines():
            yield json.loads(line)
    except ValueError:
        raise NotRecordings(f"{file} has a line that is no JSON.") from None


def _exchange(run: str, request: dict[str, Any], answered: dict[str, Any] | None) -> Exchange:
    body = request["body"]
    images = 0
    messages: list[Message] = []
    for message in body["messages"]:
        if isinstance(message.get("content"), list):
            texts = [part for part in message["content"] if part["type"] == "text"]
            images += len(message["content"]) - len(texts)
            message = message | {"content": texts or "(an image)"}
        messages.append(message)
    return Exchange(
        session=re.sub(r"t\d+$", "", run),
        messages=tuple(messages),
        fields={name: body[name] for name in KEPT if body.get(name) is not None},
        answer=None if answered is None else _answer(answered),
        images=images,
    )


def _answer(answered: dict[str, Any]) -> Message:
    message: Message = {"role": "assistant", "content": answered["text"]}
    if answered["reasoning"]:
        message["reasoning_content"] = answered["reasoning"]
    if answered["calls"]:
        message["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for call in answered["calls"]
        ]
    return message
