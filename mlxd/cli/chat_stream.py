"""Talks to any server of the OpenAI chat API and yields what it says, piece by piece."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CONNECT_S, SILENCE_S = 5.0, 600.0
"""A server may compute a long prompt in silence; mlxd itself sends something every few seconds."""


class ChatError(Exception):
    """Something a person can act on; the message is ready to show."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A bit of the answer. `kind` note is about the answer, e.g. that a tool was called."""

    kind: Literal["reasoning", "content", "note"]
    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the server reports them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


def complete_base_url(url: str) -> str:
    """A base URL without a path gets `/v1`, which is what nearly everybody means.

    >>> complete_base_url("http://127.0.0.1:8080/"), complete_base_url("https://host/api/v1/")
    ('http://127.0.0.1:8080/v1', 'https://host/api/v1')
    """
    try:
        parts, _ = urlsplit(url), httpx.URL(url).host  # where names of other scripts are looked into
    except (ValueError, httpx.InvalidURL):
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ChatError(f"{url[:100]!r} is no base URL; it looks like http://127.0.0.1:8080/v1.")
    return url.rstrip("/") if parts.path.strip("/") else url.rstrip("/") + "/v1"


@dataclass(slots=True)
class ChatServer:
    """One server. Use as a context manager; every failure is a `ChatError`."""

    base_url: str
    client: httpx.Client

    @classmethod
    def at(cls, base_url: str, api_key: str = "") -> ChatServer:
        local = urlsplit(base_url).hostname in LOOPBACK  # a proxy from the environment cannot reach our loopback
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
        return cls(base_url, httpx.Client(headers=headers, timeout=timeout, trust_env=not local))

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def first_model(self) -> str:
        """The id of the first model the server lists; a server without a list gets `default`."""
        try:
            reply = self.client.get(f"{self.base_url}/models")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if reply.status_code in (404, 405):
            return "default"
        if reply.status_code != 200:
            raise self._refused(reply.status_code, reply.content)
        try:
            listed = reply.json()["data"]
            return str(listed[0]["id"])
        except IndexError:
            raise ChatError("The server serves no model. Start it with one: mlxd serve --demo") from None
        except (ValueError, KeyError, TypeError):
            raise ChatError(f"{self.base_url}/models answers with something that is no list of models.") from None

    def answer(self, body: dict[str, Any]) -> Generator[Piece | Usage]:
        """Streams one answer. Closing the iterator closes the connection, which stops the server's work."""
        request = body | {"stream": True, "stream_options": {"include_usage": True}}
        # Bytes of an argument that were no text are surrogates, which no request can carry.
        content = json.dumps(request, ensure_ascii=False).encode("utf-8", "replace")
        headers = {"Content-Type": "application/json"}
        try:
            url = f"{self.base_url}/chat/completions"
            with self.client.stream("POST", url, content=content, headers=headers) as reply:
                if reply.status_code != 200:
                    raise self._refused(reply.status_code, reply.read())
                yield from read_events(reply.iter_lines())
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: httpx.HTTPError) -> ChatError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ChatError(
                f"Nobody answers at {self.base_url}. Start a server (mlxd serve --demo), or point --base-url at one."
            )
        if isinstance(error, httpx.TimeoutException):
            return ChatError(f"{self.base_url} has been silent for {SILENCE_S:.0f} s.")
        return ChatError(f"The connection to {self.base_url} broke ({type(error).__name__}).")

    def _refused(self, status: int, body: bytes) -> ChatError:
        hint = ""
        if status in (404, 405) and not self.base_url.endswith("/v1"):
            hint = " A base URL usually ends in /v1."
        elif status in (401, 403):
            hint = " Give a key with --api-key-file."
        return ChatError(f"{_error_text(body) or 'The server refused'} (HTTP {status}).{hint}")


def read_events(lines: Iterable[str]) -> Iterator[Piece | Usage]:
    """Server-sent events to pieces. Raises `ChatError` for an error in the stream or one that just stops."""
    finished = False
    told: set[str] = set()
    for text in _data(lines):
        if text == "[DONE]":
            return
        event = _parsed(text)
        if "error" in event:
            raise ChatError(_error_text(text.encode()) or "The server reports an error.")
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            finished = finished or bool(choice.get("finish_reason"))
            yield from _pieces(choice, told)
        if isinstance(event.get("usage"), dict):
            yield _usage(event["usage"])
    if not finished:
        raise ChatError("The stream broke off before the answer was complete.")


def _data(lines: Iterable[str]) -> Iterator[str]:
    held: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            held.append(line[5:].removeprefix(" "))
        elif not line and held:
            yield "\n".join(held)
            held.clear()


def _parsed(text: str) -> dict[str, Any]:
    try:
        event = json.loads(text)
    except ValueError:
        raise ChatError("The server sent an event that is not JSON.") from None
    if not isinstance(event, dict):
        raise ChatError("The server sent an event that is no object.")
    return event


def _pieces(choice: dict[str, Any], told: set[str]) -> Iterator[Piece]:
    """`told` are the calls that were shown: their arguments come in pieces, with some servers each with the name."""
    delta = choice.get("delta") or {}
    reasoning = delta.get("reasoning_content") or delta.get("reasoning")
    if isinstance(reasoning, str) and reasoning:
        yield Piece("reasoning", reasoning)
    if isinstance(delta.get("content"), str) and delta["content"]:
        yield Piece("content", delta["content"])
    for call in delta.get("tool_calls") or ():
        name = (call.get("function") or {}).get("name")
        number = f"{choice.get('index')} {call.get('index', call.get('id', name))}"
        if name and number not in told:
            told.add(number)
            yield Piece("note", f"the model called the tool {name}")
    if choice.get("finish_reason") == "length":
        yield Piece("note", "cut off: the limit on the answer's length was reached")


def _usage(usage: dict[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"), details.get("cached_tokens"))
    return Usage(*(count if isinstance(count, int) else 0 for count in counts))


def _error_text(body: bytes) -> str:
    """The message of an error in any of the usual shapes, "" where there is none."""
    try:
        error: Any = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "")[:500]


def request_body(model: str, messages: Sequence[dict[str, str]], max_tokens: int | None) -> dict[str, Any]:
    """The body of one chat request."""
    limit = {} if max_tokens is None else {"max_tokens": max_tokens}
    return {"model": model, "messages": list(messages), **limit}
