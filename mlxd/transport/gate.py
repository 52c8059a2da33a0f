"""Gate 0: what a request head must look like before anything else sees the request.

Pure functions over the request line and headers, run on every route and on WebSocket handshakes when the head is
complete, before a body byte is read and before authentication. No credential is needed for a web page to reach a
loopback port, so the gate asks what a browser cannot hide: a rebound name shows in Host, a foreign page in Origin or
Sec-Fetch-Site, a form in Content-Type. Agents and SDKs send neither Origin nor Sec-Fetch-Site and pass untouched.

The rules are a table, `RULES`; the first refusal wins. Not here: who the caller is, what the body says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from mlxd.error_shapes import clip

LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

_TOKEN: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f\x85]")
_TARGET: Final = re.compile(r"/[!\"$-~]*")  # printable ASCII without space and '#', in origin form
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ENCODED_SLASH: Final = re.compile(r"%2f", re.IGNORECASE)
_SAME_ORIGIN_FETCHES: Final = frozenset({"none", "same-origin"})


@dataclass(frozen=True, slots=True)
class GateConfig:
    """What the gate compares with. `port` is the bound port; the server fills it in, also when port 0 was asked for.

    `hosts` are further names we are reached by, without port. `origins` are whole origins (`scheme://host:port`) of
    foreign pages that may call us. An id such as `org/name` arrives from the OpenAI SDK with its slash encoded, so
    `%2F` is let through below `encoded_slash_below` and nowhere else.
    """

    port: int = 0
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    json_roots: frozenset[str] = frozenset({"v1", "anthropic", "api"})
    unguarded_fetch_paths: frozenset[str] = frozenset({"/health/live"})
    navigation_paths: frozenset[str] = frozenset({"/login"})
    encoded_slash_below: tuple[str, ...] = ("/v1/models/", "/api/models/")

    def authorities(self) -> frozenset[str]:
        """Every value of Host that means us, in lower case."""
        names = LOOPBACK_HOSTS | {name.lower() for name in self.hosts}
        bare = names if self.port == 80 else frozenset[str]()
        return frozenset(f"{name}:{self.port}" for name in names) | bare

    def own_origins(self) -> frozenset[str]:
        """Every value of Origin that means a page we served."""
        return frozenset(f"http://{authority}" for authority in self.authorities())


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request goes no further: HTTP status, stable code, a message safe to show, methods for Allow."""

    status: int
    code: str
    message: str
    allow: tuple[str, ...] = ()
    retry_after_s: int | None = None
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class _Head:
    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    config: GateConfig

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def decoded_path(self) -> str:
        """The path as routes see it; only rules after `_target` may ask, which has made sure that it decodes."""
        return unquote_to_bytes(self.path).decode("utf-8")

    def values(self, name: str) -> list[str]:
        wanted = name.encode()
        return [value.strip().decode("latin-1") for key, value in self.headers if key.lower() == wanted]

    def has_body(self) -> bool:
        return bool(self.values("transfer-encoding")) or any(v != "0" for v in self.values("content-length"))

    def from_listed_origin(self) -> bool:
        origins = self.values("origin")
        return len(origins) == 1 and origins[0] in self.config.origins


def check(config: GateConfig, method: str, target: str, headers: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
    """The refusal this request head deserves, or None to let it pass.

    `target` is the request target as sent, query included; `headers` are all of them, in order, names in any case.
    """
    head = _Head(method, target, tuple(headers), config)
    for rule in RULES:
        if (refusal := rule(head)) is not None:
            return refusal
    return None


def wants_websocket(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the head asks to become a WebSocket."""
    return any(name.lower() == b"upgrade" and b"websocket" in value.lower() for name, value in headers)


def _syntax(head: _Head) -> Refusal | None:
    for name, value in head.headers:
        if not _TOKEN.fullmatch(name) or _CONTROL.search(value):
            return Refusal(400, "invalid_header", "A header name or value holds characters that HTTP does not allow.")
    return None


def _host(head: _Head) -> Refusal | None:
    hosts = head.values("host")
    if not hosts:
        return Refusal(400, "missing_host", "The Host header is required.")
    if len(hosts) == 1 and hosts[0].lower() in head.config.authorities():
        return None
    return Refusal(
        421,
        "invalid_host",
        f"Host {clip(', '.join(hosts))!r} is not a name of this server. Use 127.0.0.1:{head.config.port}"
        " or add the name to the configured hosts.",
        permanent=True,
    )


def _target(head: _Head) -> Refusal | None:
    if not _TARGET.fullmatch(head.target):
        return Refusal(400, "invalid_path", "The request target must be an absolute path of printable ASCII.")
    try:
        decoded = unquote_to_bytes(head.path).decode("utf-8")
    except UnicodeDecodeError:
        decoded = "\x00"
    if _BAD_ESCAPE.search(head.path) or not decoded.isprintable() or "\\" in decoded or "%" in decoded:
        return Refusal(400, "invalid_path", "The path holds an escape or a character that is not allowed.")
    if ";" in decoded or _has_odd_segments(decoded) or _has_stray_slash(head):
        return Refusal(404, "not_found", "There is nothing at this path.")
    return None


def _has_odd_segments(decoded: str) -> bool:
    *inner, _last = decoded.split("/")[1:]
    return "" in inner or not {".", ".."}.isdisjoint(decoded.split("/"))


def _has_stray_slash(head: _Head) -> bool:
    match = _ENCODED_SLASH.search(head.path)
    return match is not None and not head.path[: match.start()].startswith(head.config.encoded_slash_below)


def _method(head: _Head) -> Refusal | None:
    if head.method in METHODS or (head.method == "OPTIONS" and head.values("origin")):
        return None  # a preflight is judged by its Origin
    return _not_allowed(head)


def _not_allowed(head: _Head) -> Refusal:
    message = f"Method {clip(head.method)!r} is not allowed."
    return Refusal(405, "method_not_allowed", message, allow=METHODS)


def _websocket(head: _Head) -> Refusal | None:
    if not wants_websocket(head.headers):
        return None
    if head.method != "GET" or head.has_body() or [v.lower() for v in head.values("upgrade")] != ["websocket"]:
        return Refusal(400, "invalid_handshake", "A WebSocket handshake is a GET without body.")
    origins = head.values("origin")
    if len(origins) == 1 and origins[0] in head.config.own_origins():
        return None
    return Refusal(403, "origin_not_allowed", "WebSockets are open to pages of this server only.", permanent=True)


def _origin(head: _Head) -> Refusal | None:
    origins = head.values("origin")
    if not origins:
        return None
    allowed = head.config.own_origins() | head.config.origins
    if len(origins) > 1 or origins[0] not in allowed:
        message = f"Origin {clip(', '.join(origins))!r} may not call this server. List it in the configured origins."
        return Refusal(403, "origin_not_allowed", message, permanent=True)
    if head.method == "OPTIONS" and not head.from_listed_origin():
        return _not_allowed(head)  # our own pages need no preflight
    return None


def _fetch_site(head: _Head) -> Refusal | None:
    if _SAME_ORIGIN_FETCHES.issuperset(site.lower() for site in head.values("sec-fetch-site")):
        return None
    if head.path in head.config.unguarded_fetch_paths or head.from_listed_origin() or _is_login_navigation(head):
        return None
    return Refusal(403, "cross_site_request", "A page of another site may not call this server.", permanent=True)


def _is_login_navigation(head: _Head) -> bool:
    return (
        head.method == "GET"
        and head.path in head.config.navigation_paths
        and head.values("sec-fetch-mode") == ["navigate"]
        and head.values("sec-fetch-dest") == ["document"]
    )


def _content_encoding(head: _Head) -> Refusal | None:
    if all(value.lower() in {"", "identity"} for value in head.values("content-encoding")):
        return None
    return Refusal(415, "unsupported_content_encoding", "Send the body without Content-Encoding.")


def _content_type(head: _Head) -> Refusal | None:
    if head.decoded_path.split("/")[1] not in head.config.json_roots or not _carries_json(head):
        return None
    types = head.values("content-type")
    if len(types) == 1 and types[0].partition(";")[0].strip().lower() == "application/json":
        return None
    return Refusal(415, "unsupported_media_type", "This operation takes Content-Type: application/json.")


def _carries_json(head: _Head) -> bool:
    if head.method in {"POST", "PUT", "PATCH"}:
        return not _is_bare_order(head)
    return head.method == "DELETE" and head.has_body()


def _is_bare_order(head: _Head) -> bool:
    """`curl -X POST -H "Authorization: ..." URL`: no body to misread, and no page of another site sends that header."""
    return not head.has_body() and not head.values("content-type") and bool(head.values("authorization"))


RULES: Final[tuple[Callable[[_Head], Refusal | None], ...]] = (
    _syntax,
    _host,
    _method,  # before the target: CONNECT and OPTIONS have their own kinds
    _target,
    _websocket,
    _origin,
    _fetch_site,
    _content_encoding,
    _content_type,
)
"""In order: nonsense first, then the name we were called by, so that a rebound page learns nothing else."""
