"""The gate, as tables: what must pass untouched, and what is refused with which status, code and shape."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.transport.gate import METHODS, RULES, GateConfig, Refusal, check
from mlxd.transport.wire import raw_refusal

PORT = 8080
CONFIG = GateConfig(port=PORT, hosts=frozenset({"mac.example"}), origins=frozenset({"http://localhost:3000"}))
HOST = f"127.0.0.1:{PORT}"
JSON = {"content-type": "application/json"}

type Fields = dict[str, str]


def judge(
    method: str = "GET", target: str = "/v1/models", fields: Fields | None = None, host: str | None = HOST
) -> Refusal | None:
    pairs = [("Host", host)] if host is not None else []
    pairs += list((fields or {}).items())
    return check(CONFIG, method, target, [(name.encode(), value.encode("latin-1")) for name, value in pairs])


def outcome(refusal: Refusal | None) -> tuple[int, str] | None:
    return (refusal.status, refusal.code) if refusal else None


# ── What must pass: no agent sends Origin or Sec-Fetch-Site ──────────────────────────────────────────────────────────

CLIENTS: dict[str, Fields] = {
    "openai-python": {
        "accept-encoding": "gzip, deflate", "connection": "keep-alive", "accept": "application/json",
        "content-type": "application/json", "user-agent": "OpenAI/Python 3.54.0", "x-stainless-lang": "python",
        "x-stainless-retry-count": "0", "x-stainless-read-timeout": "600", "authorization": "Bearer not-needed",
        "content-length": "120",
    },
    "openai-node": {
        "accept": "application/json", "content-type": "application/json", "user-agent": "OpenAI/JS 6.9.0",
        "x-stainless-lang": "js", "authorization": "Bearer x", "connection": "keep-alive", "accept-language": "*",
        "sec-fetch-mode": "cors", "accept-encoding": "br, gzip, deflate", "content-length": "120",
    },
    "anthropic-python": {
        "accept": "application/json", "content-type": "application/json", "anthropic-version": "2023-06-01",
        "x-api-key": "dummy", "user-agent": "Anthropic/Python 2.12.0", "x-stainless-async": "false",
        "content-length": "99",
    },
    "anthropic-node": {
        "accept": "application/json", "content-type": "application/json", "anthropic-version": "2023-06-01",
        "anthropic-beta": "interleaved-thinking-2025-05-14", "anthropic-dangerous-direct-browser-access": "true",
        "authorization": "Bearer sk-local", "x-app": "cli", "content-length": "99", "connection": "keep-alive",
    },
    "undici": {
        "content-type": "application/json", "accept": "*/*", "accept-language": "*", "sec-fetch-mode": "cors",
        "user-agent": "node", "accept-encoding": "gzip, deflate", "content-length": "12", "connection": "keep-alive",
    },
    "curl": {"user-agent": "curl/8.7.1", "accept": "*/*", "content-type": "application/json", "content-length": "2"},
    "reqwest": {"content-type": "application/json", "accept": "text/event-stream", "content-length": "500"},
    "chunked": {"content-type": "application/json; charset=utf-8", "transfer-encoding": "chunked"},
}  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "host", [HOST, f"localhost:{PORT}", f"[::1]:{PORT}", f"LOCALHOST:{PORT}", f"mac.example:{PORT}"]
)
@pytest.mark.parametrize(
    "target", ["/v1/chat/completions", "/v1/messages?beta=true", "/v1/responses", "/api/models/load"]
)
def test_agents_pass(client: str, host: str, target: str) -> None:
    assert judge("POST", target, CLIENTS[client], host) is None


@pytest.mark.parametrize(
    "target",
    ["/", "/v1/models", "/v1/models/", "/v1/models/org%2Fname-4bit", "/v1/models/org/name", "/health/live", "/a%20b",
     "/docs?x=%2e%2e&y=//", "/v1/models?after=a;b", "/caf%C3%A9"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reads_pass(method: str, target: str) -> None:
    assert judge(method, target) is None


# ── Host ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

FOREIGN_HOSTS = [
    "evil.com", f"evil.com:{PORT}", f"127.0.0.1.evil.com:{PORT}", f"127.0.0.1@evil:{PORT}", "", "127.0.0.1",
    "localhost", "localhost:99", f"localhost.:{PORT}", f"127.0.0.2:{PORT}", f"0.0.0.0:{PORT}", f"[::]:{PORT}",
    f"::1:{PORT}",
    f"127.1:{PORT}", f"2130706433:{PORT}", f"127.0.0.1:0{PORT}", f"127.0.0.1:{PORT} ,x", f"user@localhost:{PORT}",
    f"other.example:{PORT}", "mac.example", f"mac.example.:{PORT}",
]  # fmt: skip
ROUTES = ["/v1/chat/completions", "/v1/messages", "/health/live", "/static/x.js", "/api/models", "/ws/live", "/login"]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
@pytest.mark.parametrize("target", ROUTES)
def test_foreign_hosts_are_misdirected_on_every_route(host: str, target: str) -> None:
    assert outcome(judge("GET", target, host=host)) == (421, "invalid_host")


def test_host_must_be_there_once() -> None:
    assert outcome(judge(host=None)) == (400, "missing_host")
    assert outcome(check(CONFIG, "GET", "/", [(b"host", HOST.encode())] * 2)) == (421, "invalid_host")
    assert outcome(judge(host="evil.com", fields={"x-forwarded-host": HOST})) == (421, "invalid_host")


def test_port_80_may_be_left_out() -> None:
    bare = [(b"Host", b"localhost")]
    assert check(replace(CONFIG, port=80), "GET", "/", bare) is None
    assert outcome(check(CONFIG, "GET", "/", bare)) == (421, "invalid_host")


@given(st.text(st.characters(codec="latin-1"), max_size=40))
def test_no_other_host_passes(host: str) -> None:
    passes = judge(host=host) is None
    assert passes == (host.strip().lower() in CONFIG.authorities())


# ── What a form or a packed body cannot be ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "kind",
    [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json5",
     "text/plain; application/json", "text/plain, application/json", "application/jsonx", "application/vnd.api+json"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/messages", "/anthropic/v1/x", "/api/x", "/%761/chat"])
def test_operations_take_json_only(kind: str | None, method: str, target: str) -> None:
    refusal = judge(method, target, {"content-type": kind} if kind is not None else {})
    assert outcome(refusal) == (415, "unsupported_media_type")


def test_delete_needs_a_type_only_for_a_body() -> None:
    assert judge("DELETE", "/api/keys/1") is None
    assert judge("DELETE", "/api/keys/1", {"content-length": "0"}) is None
    assert outcome(judge("DELETE", "/api/keys/1", {"content-length": "3"})) == (415, "unsupported_media_type")
    assert outcome(judge("DELETE", "/api/keys/1", {"transfer-encoding": "chunked"})) == (415, "unsupported_media_type")


def test_an_order_without_a_body_needs_a_type_unless_it_brings_what_no_foreign_page_can_send() -> None:
    order, token = "/api/models/unload", {"authorization": "Bearer x"}
    for without_body in ({}, {"content-length": "0"}):
        assert judge("POST", order, {**token, **without_body}) is None
        assert outcome(judge("POST", order, without_body)) == (415, "unsupported_media_type")
    for more in ({"content-length": "2"}, {"transfer-encoding": "chunked"}, {"content-type": "text/plain"}):
        assert outcome(judge("POST", order, {**token, **more})) == (415, "unsupported_media_type")


def test_two_content_types_are_none() -> None:
    twice = [(b"Host", HOST.encode()), (b"Content-Type", b"application/json"), (b"Content-Type", b"text/plain")]
    assert outcome(check(CONFIG, "POST", "/v1/x", twice)) == (415, "unsupported_media_type")


def test_pages_outside_the_operations_may_post_forms() -> None:
    form = {"content-type": "application/x-www-form-urlencoded", "origin": f"http://{HOST}"}
    assert judge("POST", "/login", form) is None


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "gzip, identity", "x"])
def test_packed_bodies_are_refused(encoding: str) -> None:
    refusal = judge("POST", "/v1/messages", {**JSON, "content-encoding": encoding})
    assert outcome(refusal) == (415, "unsupported_content_encoding")


def test_identity_is_no_encoding() -> None:
    assert judge("POST", "/v1/messages", {**JSON, "content-encoding": "Identity"}) is None


# ── Pages ────────────────────────────────────────────────────────────────────────────────────────────────────────────

FOREIGN_ORIGINS = [
    "http://evil.com", "null", "", "file://", "https://127.0.0.1:8080", "http://127.0.0.1", "http://127.0.0.1:8081",
    "http://localhost:8080/", "HTTP://localhost:8080", "http://localhost:3001", "https://localhost:3000",
    "chrome-extension://abc", "http://mac.example", f"http://localhost:{PORT}.evil.com",
]  # fmt: skip


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/messages", "/health/live", "/api/models", "/login"])
def test_foreign_origins_are_refused(origin: str, method: str, target: str) -> None:
    assert outcome(judge(method, target, {**JSON, "origin": origin})) == (403, "origin_not_allowed")


@pytest.mark.parametrize("origin", [f"http://{HOST}", f"http://localhost:{PORT}", f"http://[::1]:{PORT}"])
def test_our_own_pages_pass(origin: str) -> None:
    assert judge("POST", "/api/models/load", {**JSON, "origin": origin, "sec-fetch-site": "same-origin"}) is None


def test_a_listed_page_passes_with_its_preflight() -> None:
    page = {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"}
    assert judge("POST", "/v1/chat/completions", {**JSON, **page}) is None
    assert judge("OPTIONS", "/v1/chat/completions", {**page, "access-control-request-method": "POST"}) is None


def test_two_origins_are_refused() -> None:
    own = (b"Origin", f"http://{HOST}".encode())
    assert outcome(check(CONFIG, "GET", "/", [(b"Host", HOST.encode()), own, own])) == (403, "origin_not_allowed")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "weird", ""])
@pytest.mark.parametrize(
    "target", ["/", "/v1/models", "/api/models", "/health/ready", "/health/live/", "/login", "/static/a"]
)
def test_fetches_of_other_sites_are_refused(site: str, target: str) -> None:
    assert outcome(judge("GET", target, {"sec-fetch-site": site})) == (403, "cross_site_request")


def test_what_other_sites_may_fetch() -> None:
    navigation = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert judge("GET", "/health/live", {"sec-fetch-site": "cross-site"}) is None
    assert judge("GET", "/login", navigation) is None
    assert outcome(judge("GET", "/", navigation)) == (403, "cross_site_request")
    assert outcome(judge("POST", "/login", navigation)) == (403, "cross_site_request")
    assert outcome(judge("GET", "/login", {**navigation, "sec-fetch-dest": "iframe"})) == (403, "cross_site_request")
    for site in ("none", "same-origin"):
        assert judge("GET", "/", {"sec-fetch-site": site}) is None


# ── WebSocket handshakes ─────────────────────────────────────────────────────────────────────────────────────────────

UPGRADE = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13", "sec-websocket-key": "eA=="}


@pytest.mark.parametrize("origin", [*FOREIGN_ORIGINS, None, "http://localhost:3000"])
def test_sockets_are_for_our_own_pages(origin: str | None) -> None:
    fields = UPGRADE if origin is None else {**UPGRADE, "origin": origin}
    assert outcome(judge("GET", "/ws/live", fields)) == (403, "origin_not_allowed")


def test_our_own_sockets_pass() -> None:
    assert judge("GET", "/ws/live", {**UPGRADE, "origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}) is None
    assert outcome(judge("GET", "/ws/live", {**UPGRADE, "origin": f"http://{HOST}"}, "evil.com")) == (
        421,
        "invalid_host",
    )


@pytest.mark.parametrize(
    ("method", "extra"),
    [("POST", {}), ("GET", {"content-length": "5"}), ("GET", {"upgrade": "websocket, h2c"}),
     ("GET", {"transfer-encoding": "chunked"})],
)  # fmt: skip
def test_odd_handshakes_are_refused(method: str, extra: Fields) -> None:
    fields = {**UPGRADE, "origin": f"http://{HOST}", **extra}
    assert outcome(judge(method, "/ws/live", fields)) == (400, "invalid_handshake")


# ── Paths and methods ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "target",
    ["//admin", "/v1//models", "/v1/models//", "/v1/../admin", "/..", "/v1/.", "/./v1", "/v1/%2e%2e/admin",
     "/v1/%2E./admin", "/%2e", "/admin%2f..", "/v1%2fmodels", "/admin;x=1", "/admin%3b", "/v1/models/..%2fadmin",
     "/v1/models/a%2f%2e%2e%2fadmin", "/v1/models/a%2f%2fb"],
)  # fmt: skip
def test_path_tricks_lead_nowhere(target: str) -> None:
    assert outcome(judge("GET", target)) == (404, "not_found")


@pytest.mark.parametrize(
    "target",
    ["", "*", "v1/models", f"http://{HOST}/v1/models", "/a\\b", "/a%5cb", "/a%00", "/a%0a", "/a%7f", "/a%", "/a%zz",
     "/a%ff", "/%252e%252e/x", "/a#b", "/a\xe9", "/a?b\xe9", "/a\x7f", "/a%E2%80%AE"],
)  # fmt: skip
def test_malformed_targets_are_bad_requests(target: str) -> None:
    assert outcome(judge("GET", target)) == (400, "invalid_path")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "OPTIONS", "PROPFIND", "get", "FOO", "TRACK"])
def test_other_methods_are_not_allowed(method: str) -> None:
    refusal = judge(method, "/v1/models")
    assert outcome(refusal) == (405, "method_not_allowed")
    assert refusal is not None
    assert refusal.allow == METHODS


@pytest.mark.parametrize(("method", "target"), [("CONNECT", HOST), ("OPTIONS", "*"), ("TRACE", "//x")])
def test_another_method_is_not_allowed_whatever_it_is_aimed_at(method: str, target: str) -> None:
    assert outcome(judge(method, target)) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    "name", ["x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-forwarded-for", "forwarded"]
)
def test_what_a_proxy_says_counts_for_nothing(name: str) -> None:
    for value in (HOST, "evil.com", f"host={HOST}", f"for=127.0.0.1;host={HOST};proto=https"):
        assert judge(fields={name: value}) is None
        assert outcome(judge(host="evil.com", fields={name: value})) == (421, "invalid_host")
        assert outcome(judge(fields={name: value, "origin": f"https://{HOST}"})) == (403, "origin_not_allowed")


@pytest.mark.parametrize(
    "name", ["x-http-method-override", "x-method-override", "daphne-root-path", "x-forwarded-proto"]
)
def test_override_headers_change_nothing(name: str) -> None:
    assert judge("GET", "/v1/models", {name: "DELETE"}) is None
    assert outcome(judge("GET", "/v1/../x", {name: "/v1"})) == (404, "not_found")


@pytest.mark.parametrize(("name", "value"), [("a b", "1"), ("a", "x\x00y"), ("a", "x\x0by"), ("a", "x\ny"), ("", "1")])
def test_header_syntax(name: str, value: str) -> None:
    assert outcome(judge(fields={name: value})) == (400, "invalid_header")


# ── Laws ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

REFUSED = [
    judge(host="evil.com"), judge(host=None), judge(target="//a"), judge(target="/a%00"), judge("TRACE"),
    judge(fields={"origin": "null"}), judge(fields={"sec-fetch-site": "cross-site"}), judge("POST"),
    judge("POST", fields={**JSON, "content-encoding": "gzip"}), judge(fields={"a": "\x00"}),
    judge("POST", fields=UPGRADE),
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSED)
def test_every_refusal_is_json_in_the_shape_of_its_route(refusal: Refusal | None) -> None:
    assert refusal is not None
    for path in ("/v1/messages", "/v1/chat/completions"):
        head, _, body = raw_refusal(refusal, path, "req_9").partition(b"\r\n\r\n")
        shape = json.loads(body)
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        assert head.startswith(b"HTTP/1.1 %d " % refusal.status)
        assert fields[b"content-length"] == str(len(body)).encode()
        assert fields[b"x-request-id"] == b"req_9"
        assert not any(name.startswith(b"access-control") for name in fields)
        if path == "/v1/messages":
            assert shape["type"] == "error"
            assert shape["request_id"] == "req_9"
        else:
            assert shape["error"]["code"] == refusal.code


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rule_is_needed(rule: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a rule out, and one of the refusals above must turn into another or into none."""

    def outcomes() -> list[tuple[int, str] | None]:
        return [
            outcome(judge(host="evil.com")),
            outcome(judge(target="//a")),
            outcome(judge("TRACE")),
            outcome(judge(fields={"origin": "null"})),
            outcome(judge(fields={"sec-fetch-site": "cross-site"})),
            outcome(judge("POST")),
            outcome(judge("POST", fields={**JSON, "content-encoding": "gzip"})),
            outcome(judge(fields={"a": "\x00"})),
            outcome(judge(fields=UPGRADE)),
        ]

    whole = outcomes()
    monkeypatch.setattr("mlxd.transport.gate.RULES", tuple(other for other in RULES if other is not rule))
    assert outcomes() != whole


@given(host=st.text(st.characters(codec="latin-1"), min_size=200, max_size=400))
def test_messages_echo_little(host: str) -> None:
    for refusal in (judge(host=host), judge(fields={"origin": host}), judge(method=host)):
        assert refusal is not None
        assert len(refusal.message) < 64 * 4 + 120  # repr may write one character as four
