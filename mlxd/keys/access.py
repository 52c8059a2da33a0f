"""What the process knows of those who come in: the admin token's digest, keys, open browsers, codes that open one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mlxd.keys.browsers import Browsers
from mlxd.keys.codes import LoginCodes
from mlxd.keys.key import ApiKey
from mlxd.keys.keyring import Keyring
from mlxd.keys.pace import Pace


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


GUESSES_PER_MINUTE: Final = 5
KEYLESS: Final = Caller()
ADMIN: Final = Caller(admin=True)


@dataclass(frozen=True, slots=True)
class Access:
    """One per process. `guesses` are attempts to sign in with the token, `token_file` is where it stands.

    Who makes a key or a token holds `changing` until it counts.
    """

    keyring: Keyring = field(default_factory=Keyring)
    browsers: Browsers = field(default_factory=Browsers)
    codes: LoginCodes = field(default_factory=LoginCodes)
    guesses: Pace = field(default_factory=lambda: Pace(GUESSES_PER_MINUTE))
    token_file: Path | None = None
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)


_current = Access()
_admin: bytes | None = None


def install(access: Access) -> None:
    """Makes it the process's own; the daemon does it once, before it listens."""
    global _current  # noqa: PLW0603  Django's views have no other way to it
    _current = access


def current() -> Access:
    return _current


def set_admin(digest: bytes | None) -> None:
    """From now on the admin's is the token of this SHA-256 digest. None: nobody is the admin."""
    global _admin  # noqa: PLW0603  as above
    _admin = digest


def admin() -> bytes | None:
    """The digest of the admin token."""
    return _admin
