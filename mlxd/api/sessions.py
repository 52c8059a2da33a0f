"""Which conversation a request says it belongs to: read from every place where clients write it.

An id is a hint, never a key: what is reused is decided by tokens. It groups requests for the limits per session and for
the reasons of misses. Within mlxd it is known by its digest under the client's own key, so that no two keys meet in one
session and no text of a client is kept or logged.

Who sends no id is told one to come back with, and that one holds its own name: nothing has to be remembered for it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote

from mlxd.api.schemas import GenerationRequest

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
CHECK_CHARS: Final = 8
"""Of a name that was made here: the digest of the rest under the client's key. So nobody can send a name that another
client's id has, and none of another client's own."""
TOLD: Final = re.compile(r"conv_([0-9a-f]{32})")
SHOWN_CHARS: Final = 12


@dataclass(frozen=True, slots=True)
class Session:
    """`id` is what the client calls it, or a fresh one; `given` tells which. `name` is its own within mlxd."""

    id: str
    name: str
    given: bool

    @property
    def given_name(self) -> str:
        """ "" for a session that nobody named: what it goes on from decides where it belongs."""
        return self.name if self.given else ""

    def known_as(self, name: str | None) -> Session:
        """The session that a request without an id was found to belong to by what it says (None: to no other)."""
        return self if self.given or name in (None, self.name) else Session(f"conv_{name}", str(name), given=False)

    @property
    def header(self) -> str:
        """The id as the value of a header: what cannot stand in one is escaped as in a URL; a long one is named."""
        value = quote(self.id, safe="!#$&'()*+,/:;=?@[]{}|~^` ", errors="replace")
        return value if len(value) <= MAX_HEADER_CHARS else self.name

    @property
    def log_name(self) -> str:
        """Tells conversations apart in a log, and holds nothing that the client wrote."""
        return self.name[:SHOWN_CHARS]


type Knows = Callable[[str], bool]
"""Whether a client has a session of this name."""


def session_of(
    body: Mapping[str, Any], headers: Mapping[str, str], client: str, knows: Knows = lambda _: False
) -> Session:
    """The session of a request of `client`; `headers` by lower-case name. Where ids differ, a fixed order decides."""
    found = next((text for text in _candidates(body, headers) if text), "")
    if not found:
        name = _new_name(client)
        return Session(f"conv_{name}", name, given=False)
    return Session(found, name_of(client, found, knows), given=True)


def name_of(client: str, session_id: str, knows: Knows = lambda _: False) -> str:
    """What a session is called within mlxd, by an id that its client chose or was told by `X-Conv-Id`."""
    told = TOLD.fullmatch(session_id)
    if told is not None and (told[1].endswith(_check(client, told[1][:-CHECK_CHARS])) or knows(told[1])):
        return told[1]
    return session_name(client, session_id)


def session_name(client: str, session_id: str) -> str:
    """The digest of an id under its client's key."""
    framed = json.dumps([client, session_id]).encode()
    return sha256(framed).hexdigest()[:DIGEST_CHARS]


def _new_name(client: str) -> str:
    made = secrets.token_hex((DIGEST_CHARS - CHECK_CHARS) // 2)
    return made + _check(client, made)


def _check(client: str, made: str) -> str:
    return sha256(json.dumps([client, "made here", made]).encode()).hexdigest()[:CHECK_CHARS]


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
