"""Which conversation a request says it belongs to: read from every place where clients write it.

An id is a hint, never a key: what is reused is decided by tokens. It groups requests for the limits per session and for
the reasons of misses. Within mlxd it is known by its digest under the client's own key, so that no two keys meet in one
session and no text of a client is kept or logged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote

from mlxd.api.schemas import GenerationRequest
from mlxd.api.wire import new_id

BODY_FIELDS: Final = ("session_id", "conversation_id", "conversation", "thread_id", "chat_id")
"""In the order in which they win; each may also stand in one of `NESTED`."""
LAST_FIELD: Final = "prompt_cache_key"
"""Wins over nothing else: sub-agents share that of their parent."""
NESTED: Final = ("metadata", "extra_body", "client_metadata")
USER_ID: Final = "user_id"
"""In `metadata`; some clients put an object with a `session_id`, as JSON text, into it."""
HEADERS: Final = (
    "x-conversation-id",
    "x-conv-id",
    "x-claude-code-session-id",
    "x-session-id",
    "session-id",
    "thread-id",
    "x-session-affinity",
)
"""In the order in which they win. A name with underscores would be the same header; our transport lets none through."""
MAX_HEADER_CHARS: Final = 1024
DIGEST_CHARS: Final = 32
SHOWN_CHARS: Final = 12


@dataclass(frozen=True, slots=True)
class Session:
    """`id` is what the client calls it, or a fresh one; `given` tells which. `name` is its own within mlxd.

    Only a session that was `given` is known to the store: nobody comes back to the others, unless by sending their id.
    """

    id: str
    name: str
    given: bool

    @property
    def store_name(self) -> str:
        return self.name if self.given else ""

    @property
    def header(self) -> str:
        """The id as the value of a header: what cannot stand in one is escaped as in a URL; a long one is named."""
        value = quote(self.id, safe="!#$&'()*+,/:;=?@[]{}|~^` ", errors="replace")
        return value if len(value) <= MAX_HEADER_CHARS else self.name

    @property
    def log_name(self) -> str:
        """Tells conversations apart in a log, and holds nothing that the client wrote."""
        return self.name[:SHOWN_CHARS]


def session_of(body: Mapping[str, Any], headers: Mapping[str, str], client: str) -> Session:
    """The session of a request of `client`; `headers` by lower-case name. Where ids differ, a fixed order decides."""
    found = next((text for text in _candidates(body, headers) if text), "")
    wanted = found or new_id("conv_")
    return Session(wanted, session_name(client, wanted), bool(found))


def session_name(client: str, session_id: str) -> str:
    """What a session of a client is called within mlxd."""
    framed = json.dumps([client, session_id]).encode()
    return sha256(framed).hexdigest()[:DIGEST_CHARS]


def fields_of(body: GenerationRequest) -> dict[str, Any]:
    """The fields of a request in which an id may stand."""
    return {name: getattr(body, name, None) for name in (*BODY_FIELDS, *NESTED, LAST_FIELD)}


def header_map(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as the transport has them, by lower-case name with hyphens. The first of a name wins."""
    found: dict[str, str] = {}
    for name, value in pairs:
        found.setdefault(name.decode("latin-1").lower().replace("_", "-"), value.decode("latin-1"))
    return found


def _candidates(body: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[str]:
    nested = [inner for name in NESTED if isinstance(inner := body.get(name), Mapping)]
    for place in (body, *nested):
        yield from (_id(place.get(field)) for field in BODY_FIELDS)
    yield from (_id_of_user(place.get(USER_ID)) for place in nested)
    yield from (_id(headers.get(name)) for name in HEADERS)
    yield from (_id(place.get(LAST_FIELD)) for place in (body, *nested))


def _id(value: Any) -> str:
    """Text, a number, or an object with an `id` of these; "" for anything else."""
    if isinstance(value, Mapping):
        value = value.get("id")
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value).strip()


def _id_of_user(value: Any) -> str:
    """The session within a user id, where one is in it: as JSON, or behind `_session_`."""
    if not isinstance(value, str):
        return ""
    if value.startswith("{"):
        with suppress(ValueError, RecursionError):
            return _id(json.loads(value).get("session_id"))
        return ""
    return _id(value.rpartition("_session_")[2]) if "_session_" in value else ""
