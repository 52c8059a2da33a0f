"""One request to any server of the OpenAI chat API, and what the server itself says about its cache."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from mlxd.probe.asks import NOTHING, Message

SILENCE_S: Final = 600.0


class ProbeFailed(Exception):
    """The server did not answer as one of this API does; the message is ready to show."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer. `cached_tokens` is None where the server reports none; `ttft_s` runs to the first piece of text.

    `ended`: the model ended it, and did not run into a limit. `reasoning_tokens` are those of `completion_tokens` that
    its thought has.
    """

    message: Message
    prompt_tokens: int
    cached_tokens: int | None
    completion_tokens: int
    ttft_s: float
    total_s: float
    verdict: str
    ended: bool = False
    reasoning_tokens: int = 0


@dataclass(slots=True)
class _Reading:
    content: str = ""
    reasoning: str = ""
    first_s: float | None = None
    finish: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    calls: dict[int, dict[str, str]] = field(default_factory=dict)

    def take(self, event: dict[str, Any], now_s: float) -> None:
        if event.get("error"):
            raise ProbeFailed(f"The server reports an error in its stream: {str(event['error'])[:200]}")
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            self.finish = choice.get("finish_reason") or self.finish
            self.content += delta.get("content") or ""
            self.reasoning += delta.get("reasoning_content") or delta.get("reasoning") or ""
            for call in delta.get("tool_calls") or ():
                self._take_call(call)
            if self.first_s is None and (self.content or self.reasoning or self.calls):
                self.first_s = now_s

    def _take_call(self, call: dict[str, Any]) -> None:
        whole = self.calls.setdefault(call.get("index") or 0, {"id": "", "name": "", "arguments": ""})
        function = call.get("function") or {}
        whole["id"] = call.get("id") or whole["id"]
        whole["name"] += function.get("name") or ""
        whole["arguments"] += function.get("arguments") or ""

    @property
    def message(self) -> Message:
        """The answer as the message that goes into a history."""
        message: Message = {"role": "assistant", "content": self.content or (None if self.calls else "")}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": one["id"],
                    "type": "function",
                    "function": {"name": one["name"], "arguments": one["arguments"]},
                }
                for _, one in sorted(self.calls.items())
            ]
        return message


def ask(
    client: httpx.Client,
    model: str,
    messages: Sequence[Message],
    max_tokens: int,
    fields: Mapping[str, Any] = NOTHING,
) -> Answered:
    """Streams one greedy answer; `fields` are more of the body's. Raises `ProbeFailed`."""
    body = {
        **fields,
        "model": model,
        "messages": [*messages],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began_s = time.monotonic()
    reading = _Reading()
    try:
        with client.stream("POST", "/chat/completions", json=body) as reply:
            if reply.status_code != 200:
                raise ProbeFailed(f"HTTP {reply.status_code}: {reply.read()[:300].decode(errors='replace')}")
            for event in _events(reply.iter_lines()):
                reading.take(event, time.monotonic() - began_s)
            verdict = reply.headers.get("x-mlxd-verdict", "")
    except httpx.HTTPError as error:
        raise ProbeFailed(f"{client.base_url} does not answer ({type(error).__name__}).") from None
    return _answered(reading, verdict, time.monotonic() - began_s)


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        text = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if text and text != "[DONE]":
            try:
                yield json.loads(text)
            except ValueError:
                raise ProbeFailed("The server sent an event that is not JSON.") from None


def _answered(reading: _Reading, verdict: str, total_s: float) -> Answered:
    usage = reading.usage
    if not isinstance(usage.get("prompt_tokens"), int):
        raise ProbeFailed("The server reports no usage, so nothing can be measured.")
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens", usage.get("cached_tokens"))
    return Answered(
        message=reading.message,
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=cached if isinstance(cached, int) else None,
        completion_tokens=usage.get("completion_tokens") or 0,
        ttft_s=total_s if reading.first_s is None else reading.first_s,
        total_s=total_s,
        verdict=verdict,
        ended=reading.finish in ("stop", "tool_calls"),
        reasoning_tokens=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0,
    )
