"""A folded answer: the chunks of a stream, put together as a client would."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from inference.events import Event
from mlxd.api.chunks import Choice, Chunk, Reducer
from mlxd.api.logprobs import added
from mlxd.api.slot import EventSource

_TEXTS: Final = ("content", "reasoning_content")


async def collect(source: EventSource, reducer: Reducer, opening: Sequence[Event]) -> dict[str, Any]:
    """Reads the source to its end and folds it; `opening` was read already. Raises the error that ended it."""
    chunks = reducer.feed(opening)
    while not reducer.done:
        chunks.extend(reducer.feed(await source.next_batch()))
    if reducer.error is not None:
        raise reducer.error
    return fold(chunks)


def fold(chunks: Iterable[Chunk]) -> dict[str, Any]:
    """The answer that one whole stream of chunks adds up to."""
    head: Chunk = {}
    answers: dict[int, Folded] = {}
    usage = None
    for chunk in chunks:
        head = head or chunk
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            answers.setdefault(choice["index"], Folded()).add(choice)
    return {
        "id": head["id"],
        "object": head["object"].removesuffix(".chunk"),
        "created": head["created"],
        "model": head["model"],
        "choices": [{"index": index, **answers[index].choice()} for index in sorted(answers)],
        "usage": usage,
    }


class Folded:
    """One choice, put together from its pieces."""

    def __init__(self) -> None:
        self._chat = False
        self._texts: dict[str, list[str]] = {"content": []}
        self._calls: dict[int, dict[str, Any]] = {}
        self._logprobs: dict[str, Any] | None = None
        self._reason: str | None = None

    def add(self, choice: Choice) -> None:
        self._chat = "delta" in choice
        self._reason = choice["finish_reason"] or self._reason
        if choice["logprobs"]:
            self._logprobs = added(self._logprobs, choice["logprobs"])
        for field, text in _texts(choice):
            self._texts.setdefault(field, []).append(text)
        for piece in choice.get("delta", {}).get("tool_calls", ()):
            _add_call(self._calls, piece)

    def choice(self) -> Choice:
        """The whole of it, less its index."""
        joined = {field: "".join(pieces) for field, pieces in self._texts.items()}
        said = _message(joined, list(self._calls.values())) if self._chat else {"text": joined["content"]}
        return {**said, "logprobs": self._logprobs, "finish_reason": self._reason}


def _texts(choice: Choice) -> Iterable[tuple[str, str]]:
    if "delta" not in choice:
        return (("content", choice["text"]),)
    return tuple((field, text) for field, text in choice["delta"].items() if field in _TEXTS)


def _add_call(calls: dict[int, dict[str, Any]], piece: dict[str, Any]) -> None:
    """A call's first piece has all but the rest of its arguments; the place in the stream is left out."""
    if (begun := calls.get(piece["index"])) is not None:
        begun["function"]["arguments"] += piece["function"]["arguments"]
        return
    call = {name: value for name, value in piece.items() if name != "index"}
    calls[piece["index"]] = call | {"function": dict(piece["function"])}


def _message(texts: dict[str, str], calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Without calls there is no `tool_calls`; beside calls, content that says nothing is null."""
    said: dict[str, Any] = {"role": "assistant", **texts, "refusal": None}
    if calls:
        said |= {"content": texts["content"] or None, "tool_calls": calls}
    return {"message": said}
