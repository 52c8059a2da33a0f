"""Admission of a generation stays on the event loop."""

from __future__ import annotations

import json
import threading

import pytest

from tests.integration.api_scripted import Call, StandIn, chat


@pytest.mark.parametrize("stream", [False, True])
async def test_a_generation_starts_no_thread(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    started: list[str] = []
    original = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        started.append(thread.name)
        original(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    answer = await Call("POST", "/v1/chat/completions", json.dumps(chat(stream=stream)).encode()).start().result()
    assert answer.status == 200 and answer.complete
    assert not started
