"""The probe against servers that are made up: who came first in a wave, and who says nothing of a cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from inference.conversation.text_model import TextModel
from inference.engine.demo import demo_model_dir
from inference.engine.text import load_text
from mlxd.probe.asks import Ask
from mlxd.probe.client import ProbeFailed
from mlxd.probe.content import prose
from mlxd.probe.oracle import Oracle
from mlxd.probe.report import summaries
from mlxd.probe.run import Target, Turn, play

type CachedOf = Callable[[str, int], int | None]
"""Tokens that a server says were cached, of the text of a request's messages and its length in tokens."""


@pytest.fixture(scope="module")
def text() -> TextModel:
    return load_text(demo_model_dir())


@contextmanager
def serving(oracle: Oracle, cached_of: CachedOf) -> Iterator[Target]:
    class Exchange(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
            prompt_tokens = len(oracle.prompt(Ask("any", tuple(messages))))
            cached = cached_of(messages[-1]["content"], prompt_tokens)
            usage: dict[str, Any] = {"prompt_tokens": prompt_tokens, "completion_tokens": 1}
            if cached is not None:
                usage["prompt_tokens_details"] = {"cached_tokens": cached}
            event = {"choices": [{"delta": {"content": "Yes."}}], "usage": usage}
            payload = f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Exchange) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Target(f"http://127.0.0.1:{server.server_address[1]}", "any", max_tokens=1)
        finally:
            server.shutdown()
            thread.join()


def played(text: TextModel, name: str, cached_of: CachedOf) -> list[Turn]:
    with serving(Oracle(text), cached_of) as target:
        return list(play(target, [name], Oracle(text)))


@pytest.mark.parametrize("first", ["agent 0", "agent 2"])
def test_whoever_came_first_in_a_wave_is_the_cold_one(text: TextModel, first: str) -> None:
    """All but one agent of a wave are told that all but 500 tokens were known; whichever it is, nothing is hidden."""
    turns = played(text, "fanout", told_beside(first))
    wave = turns[1:4]
    assert [turn.warm for turn in wave] == [f"agent {one}" != first for one in range(3)]
    assert not any(turn.hidden for turn in wave)


def told_beside(first: str) -> CachedOf:
    opening = prose(first, 40)
    return lambda last, prompt_tokens: 0 if last == opening else prompt_tokens - 500


def test_a_server_that_is_silent_where_nothing_was_cached_can_be_measured(text: TextModel) -> None:
    first = prose("normal 0", 90)
    turns = played(text, "normal", lambda last, prompt_tokens: None if last == first else prompt_tokens // 2)
    assert [turn.reported for turn in turns] == [False] + 7 * [True]
    assert turns[0].prefilled == turns[0].prompt
    assert summaries(turns)[0].ratio > 1.02


def test_a_server_that_never_says_what_was_cached_cannot(text: TextModel) -> None:
    with pytest.raises(ProbeFailed, match="does not say"):
        played(text, "normal", lambda *_: None)
