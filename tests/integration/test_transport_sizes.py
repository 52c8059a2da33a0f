"""Bodies and heads that are too long, and framing that is ambiguous or broken, over real sockets."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.integration.transport_client import Raw, Served, exchange, head, parse

# ── Sizes ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("length", ["10000000000", "1000001", "9" * 30, "9" * 5000])
def test_a_body_too_long_is_refused_before_it_is_read(served: Served, length: str) -> None:
    answer = exchange(served.port, head(served.port, "POST /v1/messages", f"Content-Length: {length}"))
    assert answer.status == 413
    assert answer.error["type"] == "request_too_large"
    assert answer.fields["x-should-retry"] == "false"


def test_refusal_comes_before_the_continue(served: Served) -> None:
    with Raw(served.port) as raw:
        raw.send(head(served.port, "POST /v1/x", "Content-Length: 10000000000", "Expect: 100-continue"))
        received = raw.until(b"}}")
    assert received.startswith(b"HTTP/1.1 413")


def test_a_client_that_sends_on_still_reads_the_answer(served: Served) -> None:
    with Raw(served.port) as raw:
        raw.send(head(served.port, "POST /v1/x", "Content-Length: 8000000"))
        raw.send(b"x" * 8_000_000)
        assert parse(raw.until_end()).status == 413
        assert raw.ended == "eof"


def test_a_chunked_body_is_cut_at_the_limit(served: Served) -> None:
    with Raw(served.port) as raw:
        raw.send(head(served.port, "POST /v1/x", "Transfer-Encoding: chunked"))
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        for _ in range(40):
            raw.send(piece)
        answer = parse(raw.until_end())
    assert answer.status == 413
    assert answer.error["code"] == "request_too_large"


def test_chunks_of_one_byte_cannot_stretch_the_limit(served: Served) -> None:
    with Raw(served.port) as raw:
        raw.send(head(served.port, "POST /v1/x", "Transfer-Encoding: chunked"))
        raw.send(b"1\r\nx\r\n" * 100_000)
        answer = parse(raw.until_end())
    assert (answer.status, answer.error["code"]) == (400, "wasteful_chunks")


@pytest.mark.parametrize("size", [0, 1, 99_999, 262_144, 524_288, 1_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_within_the_limit_arrive_whole(served: Served, size: int, chunked: bool) -> None:
    content: Any = (b"x" * min(70_000, size - i) for i in range(0, size, 70_000)) if chunked else b"x" * size
    answer = httpx.post(f"{served.url}/v1/x", content=content, headers={"content-type": "application/json"}, timeout=60)
    assert answer.status_code == 200
    assert answer.json()["body_bytes"] == size


def test_small_chunks_are_no_crime(served: Served) -> None:
    with Raw(served.port) as raw:
        raw.send(head(served.port, "POST /v1/x", "Transfer-Encoding: chunked", "Connection: close"))
        raw.send(
            b"10\r\n" + b"x" * 16 + b"\r\n",
        )
        raw.send((b"8\r\n" + b"x" * 8 + b"\r\n") * 60_000 + b"0\r\n\r\n")
        answer = parse(raw.until_end())
    assert answer.status == 200
    assert b'"body_bytes": 480016' in answer.body


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        ([f"X-{i}: 1" for i in range(600)], 431, "headers_too_large"),
        (["X: " + "y" * 20_000], 431, "headers_too_large"),
        (["X: " + "y" * 2_000_000], 431, "headers_too_large"),
        ([f"X-{i}: " + "y" * 3000 for i in range(7)], 431, "headers_too_large"),
    ],
    ids=["600 headers", "20 KB", "2 MB", "7 x 3 KB"],
)
def test_large_heads_are_answered(served: Served, lines: list[str], status: int, code: str) -> None:
    answer = exchange(served.port, head(served.port, "GET /v1/models", *lines))
    assert (answer.status, answer.error["code"]) == (status, code)


def test_a_long_target_is_answered(served: Served) -> None:
    answer = exchange(served.port, head(served.port, "GET /" + "x" * 20_000))
    assert (answer.status, answer.error["code"]) == (414, "uri_too_long")


# ── Framing ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 5"],
        ["Content-Length: +5"],
        ["Content-Length: -1"],
        ["Content-Length: 0x5"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["X: a", " folded"],
        ["X : a"],
        ["no colon"],
        ["X: a\x00b"],
        ["X: a\nY: b"],
        ["X: a\rY: b"],
    ],
)
def test_ambiguous_framing_is_refused(served: Served, lines: list[str]) -> None:
    answer = exchange(served.port, head(served.port, "POST /v1/messages", *lines) + "0\r\n\r\n")
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "garbage", ["\x16\x03\x01\x02\x00\x01\r\n", "GET /\r\n", "GET / HTTP/2.0\r\n\r\n", "x\r\n\r\n"]
)
def test_garbage_is_answered(served: Served, garbage: str) -> None:
    answer = exchange(served.port, garbage + "\r\n")
    assert (answer.status, answer.error["code"]) == (400, "malformed_request")


@pytest.mark.parametrize("chunk", ["zz\r\n", "5\r\nabcdefgh\r\n", "-1\r\n", "5;" + "x" * 5000 + "\r\n"])
def test_malformed_chunks_are_refused(served: Served, chunk: str) -> None:
    answer = exchange(served.port, head(served.port, "POST /v1/x", "Transfer-Encoding: chunked") + chunk)
    assert (answer.status, answer.error["code"]) == (400, "malformed_request")
