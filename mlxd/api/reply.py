"""A folded answer: the chunks of a stream, put together as a client would."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from inference.events import Event
from mlxd.api.chunks import Chunk, Reducer
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
    texts: dict[str, list[str]] = {"content": []}
    calls: dict[int, dict[str, Any]] = {}
    reason = usage = None
    for chunk in chunks:
        head = head or chunk
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            reason = choice["finish_reason"] or reason
            for field, text in _texts(choice):
                texts.setdefault(field, []).append(text)
            for piece in choice.get("delta", {}).get("tool_calls", ()):
                _add_call(calls, piece)
    joined = {field: "".join(pieces) for field, pieces in texts.items()}
    chat = head["object"] == "chat.completion.chunk"
    said = _message(joined, list(calls.values())) if chat else {"text": joined["content"]}
    return {
        "id": head["id"],
        "object": head["object"].removesuffix(".chunk"),
        "created": head["created"],
        "model": head["model"],
        "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": reason}],
        "usage": usage,
    }


def _texts(choice: dict[str, Any]) -> Iterable[tuple[str, str]]:
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
