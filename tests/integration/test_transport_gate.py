"""The gate, on the wire: who is refused, how, and which headers have no effect."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.integration.transport_client import Served, exchange


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        ("GET /v1/models HTTP/1.1\r\n\r\n", 400, "missing_host"),
        ("GET /health/live HTTP/1.1\r\nHost: evil.com\r\n\r\n", 421, "invalid_host"),
        ("GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: 127.0.0.1:{port}\r\n\r\n", 421, "invalid_host"),
        ("GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: null\r\n\r\n", 403, "origin_not_allowed"),
        ("OPTIONS /v1/x HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: http://a.b\r\n\r\n", 403, "origin_not_allowed"),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nSec-Fetch-Site: same-site\r\n\r\n", 403, "cross_site_request"),
        ("POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 9\r\n\r\n", 415, "unsupported_media_type"),
        ("TRACE / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n", 405, "method_not_allowed"),
        ("GET /v1/../x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n", 404, "not_found"),
        ("GET /a%00 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n", 400, "invalid_path"),
    ],
)
def test_refusals_on_the_wire(served: Served, data: str, status: int, code: str) -> None:
    answer = exchange(served.port, data.format(port=served.port))
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.fields["connection"] == "close"
    assert ("allow" in answer.fields) == (status == 405)


def test_a_refused_head_request_has_no_body(served: Served) -> None:
    answer = exchange(served.port, f"HEAD //x HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n")
    assert (answer.status, answer.body) == (404, b"")


def test_refusals_on_anthropic_routes_have_their_shape(served: Served) -> None:
    answer = exchange(served.port, "GET /v1/messages HTTP/1.1\r\nHost: evil.com\r\n\r\n")
    assert json.loads(answer.body) == {
        "type": "error", "request_id": answer.fields["request-id"],
        "error": {"type": "invalid_request_error", "message": answer.error["message"]},
    }  # fmt: skip


def test_the_root_path_header_has_no_effect(served: Served) -> None:
    for path in ("/zz/admin/x", "/admin/x"):
        answer = httpx.get(
            f"{served.url}{path}", headers={"Daphne-Root-Path": "/zz", "X-Under_Score": "1"}, timeout=60
        ).json()
        assert answer["path"] == path
        assert answer["root_path"] == ""
        assert "daphne-root-path" not in answer["header_names"]
        assert "x-under_score" not in answer["header_names"]


def test_request_ids_are_fresh_and_ours(served: Served) -> None:
    seen = set()
    for _ in range(3):
        answer = httpx.get(
            f"{served.url}/echo", headers={"x-request-id": "req_mine", "request-id": "req_mine"}, timeout=60
        )
        assert answer.headers["x-request-id"] == answer.headers["request-id"] == answer.json()["mlxd.request_id"]
        seen.add(answer.headers["x-request-id"])
    assert len(seen) == 3
    assert "req_mine" not in seen
