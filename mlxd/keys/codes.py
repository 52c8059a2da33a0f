"""Codes that sign one browser in, once, within a minute; and how often one may guess."""

from __future__ import annotations

import secrets
from typing import Final

from mlxd.keys.key import digest

CODE_S: Final = 60.0
MAX_CODES: Final = 16
CODE_BYTES: Final = 32


class LoginCodes:
    """In memory only: a restart takes them all back. `now_s` never goes back."""

    def __init__(self) -> None:
        self._until_s: dict[bytes, float] = {}

    def mint(self, now_s: float) -> str:
        """A fresh code of 256 random bits. Of too many the oldest are taken back."""
        code = secrets.token_urlsafe(CODE_BYTES)
        self._until_s[digest(code)] = now_s + CODE_S
        while len(self._until_s) > MAX_CODES:
            del self._until_s[next(iter(self._until_s))]
        return code

    def redeem(self, code: str, now_s: float) -> bool:
        """Whether it was good. It is not from then on."""
        until_s = self._until_s.pop(digest(code), None)
        return until_s is not None and now_s < until_s

    def take_back(self) -> None:
        self._until_s.clear()
