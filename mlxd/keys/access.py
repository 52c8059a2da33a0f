"""What the process knows of those who come in: the keys, the open browsers, the codes that open one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mlxd.keys.key import ApiKey
from mlxd.keys.keyring import Keyring


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. `client` is the id of a key: it owns what is stored, and has its own turn in the queue.

    "" is everyone without a key of ours: they are one.
    """

    client: str = ""
    key: ApiKey | None = None
    admin: bool = False

    def may_use(self, model_id: str) -> bool:
        return self.key is None or self.key.may_use(model_id)


KEYLESS: Final = Caller()
ADMIN: Final = Caller(admin=True)


@dataclass(frozen=True, slots=True)
class Access:
    """One per process."""

    keyring: Keyring = field(default_factory=Keyring)


_current = Access()


def install(access: Access) -> None:
    """Makes it the process's own; the daemon does it once, before it listens."""
    global _current  # noqa: PLW0603  Django's views have no other way to it
    _current = access


def current() -> Access:
    return _current
