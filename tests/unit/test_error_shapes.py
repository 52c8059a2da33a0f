"""Error bodies: the shape belongs to the route, the type to the status, and nothing long is echoed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.error_shapes import busy_status, clip, error_body, error_response, is_anthropic, refusal_headers

ANTHROPIC = ["/v1/messages", "/v1/messages/", "/v1/messages/count_tokens", "/v1/messages?beta=true", "/anthropic/v1/x"]
OPENAI = [
    "/v1/chat/completions",
    "/v1/messagesx",
    "/v1/models",
    "/api/models",
    "/",
    "",
    "/anthropicx",
    "/x/v1/messages",
]


@pytest.mark.parametrize("path", ANTHROPIC)
def test_anthropic_routes(path: str) -> None:
    assert is_anthropic(path)
    assert busy_status(path) == 529
    shape = json.loads(error_body(path, status=404, code="not_found", message="gone", request_id="req_1"))
    assert shape == {"type": "error", "error": {"type": "not_found_error", "message": "gone"}, "request_id": "req_1"}


@pytest.mark.parametrize("path", OPENAI)
def test_openai_routes(path: str) -> None:
    assert not is_anthropic(path)
    assert busy_status(path) == 503
    shape = json.loads(error_body(path, status=404, code="not_found", message="gone", param="model"))
    assert shape == {"error": {"message": "gone", "type": "not_found_error", "param": "model", "code": "not_found"}}


@pytest.mark.parametrize(
    ("status", "openai", "anthropic"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (401, "authentication_error", "authentication_error"),
        (403, "permission_error", "permission_error"),
        (404, "not_found_error", "not_found_error"),
        (405, "invalid_request_error", "invalid_request_error"),
        (408, "invalid_request_error", "invalid_request_error"),
        (413, "invalid_request_error", "request_too_large"),
        (415, "invalid_request_error", "invalid_request_error"),
        (421, "invalid_request_error", "invalid_request_error"),
        (429, "rate_limit_error", "rate_limit_error"),
        (500, "server_error", "api_error"),
        (503, "server_error", "overloaded_error"),
        (529, "server_error", "overloaded_error"),
    ],
)
def test_types_follow_the_status(status: int, openai: str, anthropic: str) -> None:
    def kind(path: str) -> str:
        return str(json.loads(error_body(path, status=status, code="c", message="m"))["error"]["type"])

    assert kind("/v1/chat/completions") == openai
    assert kind("/v1/messages") == anthropic


def test_retry_headers() -> None:
    assert refusal_headers() == []
    assert refusal_headers(3) == [(b"retry-after", b"3")]
    assert refusal_headers(permanent=True) == [(b"x-should-retry", b"false")]


def test_a_response_describes_its_own_body() -> None:
    status, headers, body = error_response(
        "/v1/messages", status=529, code="draining", message="später", request_id="req_7", retry_after_s=2
    )
    fields = dict(headers)
    assert status == 529
    assert fields[b"content-length"] == str(len(body)).encode()
    assert fields[b"content-type"] == b"application/json"
    assert fields[b"retry-after"] == b"2"
    assert fields[b"x-request-id"] == fields[b"request-id"] == b"req_7"
    assert json.loads(body)["error"]["message"] == "später"


@given(st.text(max_size=300))
def test_clip_is_short_printable_and_faithful(text: str) -> None:
    shown = clip(text)
    assert len(shown) <= 64
    assert shown.isprintable()
    if len(text) <= 64 and text.isprintable():
        assert shown == text
