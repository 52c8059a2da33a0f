"""The daemon when things go wrong, each provoked for real: clients that leave, too many of them, a broken engine."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.doors import JSON
from tests.e2e.scripted_client import Serve, body, error_of, events, in_background, status, streaming, wait_for_load

# --- clients that leave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["decode", "prefill"])
def test_a_client_that_leaves_frees_its_row(scripted: Serve, stage: str) -> None:
    served = scripted({"decode_s": 0.02, "prefill_s": 0.05, "chunk_tokens": 64})
    with streaming(served, "word " * (4000 if stage == "prefill" else 1)) as response:
        lines = response.iter_lines()  # kept: a generator that is dropped closes the connection
        if stage == "decode":
            next(lines)
        wait_for_load(served, 1, 0)
    wait_for_load(served, 0, 0)
    assert status(served)["scheduler"]["counters"]["cancelled"] == 1


def test_a_client_that_leaves_the_queue_never_reaches_the_engine(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.02}, "--max-batch", "1")
    with streaming(served) as running:
        lines = running.iter_lines()
        next(lines)
        with streaming(served):
            wait_for_load(served, 1, 1)
        wait_for_load(served, 1, 0)
    wait_for_load(served, 0, 0)


def test_a_folded_request_is_cancelled_as_well(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.02})
    place = urlsplit(served.url)
    leaving = HTTPConnection(place.hostname or "", place.port or 0, timeout=60)
    with closing(leaving):
        leaving.request("POST", "/v1/chat/completions", json.dumps(body(stream=False)), JSON)
        wait_for_load(served, 1, 0)
    wait_for_load(served, 0, 0)
    assert status(served)["scheduler"]["counters"]["cancelled"] == 1


# --- more than it can take --------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_at_once_and_what_was_accepted_finishes(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.02}, "--max-batch", "1", "--queue-size", "2")
    answers: list[list[str]] = []

    def ask(tokens: int) -> None:
        with streaming(served, max_tokens=tokens) as response:
            answers.append(events(response))

    accepted = [in_background(lambda: ask(400))]
    wait_for_load(served, 1, 0)
    accepted += [in_background(lambda: ask(10)) for _ in range(2)]
    wait_for_load(served, 1, 2)
    refused = httpx.post(f"{served.url}/v1/chat/completions", json=body(), timeout=60)
    assert not answers, "it did not wait for any of them, of which the first takes 8 s"
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "queue_full"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    for thread in accepted:
        thread.join(240)
    assert [answer[-1] for answer in answers] == ["[DONE]"] * 3


def test_what_can_never_fit_in_memory_is_refused_with_both_figures(scripted: Serve) -> None:
    served = scripted({"limit_bytes": 3_000_000, "limits": {"kv_bytes_per_token": 1_000}})
    refused = httpx.post(f"{served.url}/v1/chat/completions", json=body("word " * 2_000), timeout=60)
    assert refused.status_code == 400
    assert "3" in refused.json()["error"]["message"]
    assert (
        httpx.post(f"{served.url}/v1/chat/completions", json=body(max_tokens=2, stream=False), timeout=60).status_code
        == 200
    )


# --- silence ----------------------------------------------------------------------------------------------------------


def test_a_long_prefill_is_not_silence(scripted: Serve) -> None:
    served = scripted({"prefill_s": 5.0}, "--keepalive-s", "0.5")
    with streaming(served, max_tokens=1) as response:
        lines = list(response.iter_lines())
    assert lines.count(": ping") >= 3
    assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]"


# --- an engine that breaks --------------------------------------------------------------------------------------------


def test_the_death_of_the_worker_is_told_and_ends_the_process(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.02, "step_faults": {"10": "EXIT"}})
    with streaming(served) as response:
        lines = events(response)
    assert error_of(lines)["code"] == "engine_fatal"
    assert served.process.wait(60) == 70


def test_a_hang_is_seen_told_and_ends_the_process(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.02, "step_faults": {"10": "HANG"}}, "--watchdog-s", "1")
    with streaming(served) as response:
        lines = events(response)
    assert error_of(lines)["code"] == "generation_stalled"
    assert served.process.wait(60) == 70
    assert "most recent call first" in (served.state_dir / "logs" / "stacks.txt").read_text()


def test_a_native_abort_is_no_clean_end(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.02, "step_faults": {"10": "ABORT"}})
    with streaming(served) as response:
        lines = events(response)
    assert "[DONE]" not in lines
    assert lines[-1].startswith("connection: "), "a client must not take half an answer for a whole one"
    assert served.process.wait(60) == -signal.SIGABRT


def test_one_failed_row_leaves_the_others_alone(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.02, "step_faults": {"20": "ROW"}})
    answers: list[list[str]] = []

    def ask(name: str) -> None:
        with streaming(served, name, max_tokens=60) as response:
            answers.append(events(response))

    for thread in [in_background(lambda name=name: ask(name)) for name in "abc"]:
        thread.join(240)
    failed = [answer for answer in answers if "[DONE]" not in answer]
    assert len(failed) == 1
    assert error_of(failed[0])["code"] == "generation_failed"
    assert served.process.poll() is None


def test_an_unsafe_engine_is_rebuilt_and_serves_again(scripted: Serve) -> None:
    served = scripted({"decode_s": 0.01, "step_faults": {"10": "FATAL"}})
    with streaming(served) as response:
        assert error_of(events(response))["code"] == "engine_fatal"
    served.wait_ready()
    again = httpx.post(f"{served.url}/v1/chat/completions", json=body(stream=False, max_tokens=5), timeout=60)
    assert again.status_code == 200
    assert status(served)["scheduler"]["counters"]["engine_rebuilds"] == 1
