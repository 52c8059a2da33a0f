"""How much a render may use: plenty where the process can be killed, little in the one that serves everybody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

from jinja2 import TemplateError


class TemplateLimitError(TemplateError):
    """A template used more time or room than any chat template needs."""


class TooCostly(Exception):
    """A render wants more than is allowed here. What catches the refusals of templates does not catch this."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """`value_chars`: the length of one text, `output_chars` that of the render, `spread_chars` that of all in a list
    of the template's own, with what its items hold. `processor_s`: of the rendering thread."""

    value_chars: int
    output_chars: int
    spread_chars: int
    processor_s: float
    sparing: bool

    def refuse(self, message: str) -> NoReturn:
        """Raises `TooCostly` where little is allowed, else `TemplateLimitError`."""
        raise TooCostly(message) if self.sparing else TemplateLimitError(message)


PLENTY = Allowance(64 << 20, 8 << 20, 32 << 20, 60.0, sparing=False)
SPARING = Allowance(256 << 10, 1 << 20, 1 << 20, 0.25, sparing=True)
"""Requests of 64 KB stay below a quarter of each: ordinary ones take 1 to 5 ms."""

_VALUE_CHARS = 16
"""What any value counts beside its text. A million take two seconds to look at."""

_allowance: ContextVar[Allowance] = ContextVar("allowance", default=PLENTY)


def allowance() -> Allowance:
    """What holds for the render that is running."""
    return _allowance.get()


@contextmanager
def allowing(allowed: Allowance) -> Iterator[None]:
    """Renders in here may use no more than that; with `SPARING` they raise `TooCostly` when they want more."""
    token = _allowance.set(allowed)
    try:
        yield
    finally:
        _allowance.reset(token)


def within(size: int, limit: int | None = None) -> None:
    """Looks at the size of something that is about to be built; `limit` where there is a lower one."""
    allowed = allowance()
    if limit is not None and size > limit:
        raise TemplateLimitError("The chat template builds something very large.")
    if size > allowed.value_chars:
        allowed.refuse("The chat template builds something very large.")


def spread(value: Any) -> None:
    """Looks at what a list or object takes when it is written out. Thirty times `[x, x]` is small until then."""
    allowed = allowance()
    left, stack = allowed.spread_chars, [value]
    while stack:
        one = stack.pop()
        left -= _VALUE_CHARS
        if isinstance(one, str):
            left -= len(one)
        elif isinstance(one, dict):
            stack += one.values()
            left -= sum(len(key) for key in one if isinstance(key, str))
        elif isinstance(one, list | tuple):
            stack += one
        if left < 0:
            allowed.refuse("The chat template builds something very large.")
