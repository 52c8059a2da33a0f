"""What templates do to text, bounded before it is done: one call of these can otherwise fill the memory.

No clock helps here: `'aaa…'.replace('a', 'bbb…')` is a single call into C (measured: 13 s and 3.8 GB, unstoppable).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Number
from typing import Any

from jinja2 import pass_environment, pass_eval_context
from jinja2.filters import do_indent, do_replace, do_sum, sync_do_join
from jinja2.nodes import EvalContext

from inference.conversation.allowance import TemplateLimitError, within

MAX_REPEATED = 1 << 20
"""Items or characters that a multiplication makes. Templates draw lines with it."""
WIDE = re.compile(r"\d{4,}|\*")
_MAX_WIDTH = 4096
_PIECE_CHARS = 8
UNKNOWN_FILTERS = frozenset({"batch", "center", "pprint", "random", "slice", "urlize", "wordwrap", "xmlattr"})
"""Filters for web pages; no chat template has use for them, and each can make much of little."""


def repeated(left: Any, right: Any) -> None:
    """Looks at a multiplication of a text or list by a number."""
    for one, times in ((left, right), (right, left)):
        if hasattr(one, "__len__") and isinstance(times, int):
            within(len(one) * times, MAX_REPEATED)


def replaced(text: str, old: str, new: str, *_: Any) -> None:
    within(len(text) + (text.count(old) if old else len(text) + 1) * len(new))


def filled(pattern: str, values: Iterable[Any]) -> None:
    """Looks at a pattern whose fields are to be filled: each may show any of the values."""
    longest = max((len(value) for value in values if isinstance(value, str)), default=0)
    within(len(pattern) + (pattern.count("%") + pattern.count("{")) * longest)


def _joined(text: str, values: Sequence[Any]) -> None:
    if hasattr(values, "__len__"):
        within(len(text) * len(values) + sum(len(value) for value in values if isinstance(value, str)))


def _padded(_: str, width: Any, *__: Any) -> None:
    within(width, _MAX_WIDTH)


def _expanded(text: str, tabsize: Any = 8) -> None:
    within(len(text) + text.count("\t") * tabsize)


def _parted(text: str, sep: str | None = None, maxsplit: int = -1) -> None:
    """Each piece takes room beside its characters."""
    pieces = 1 + (text.count(sep) if sep else len(text) // 2)
    within(len(text) + _PIECE_CHARS * (pieces if maxsplit < 0 else min(pieces, maxsplit + 1)))


def _translated(_: str, __: Any) -> None:
    raise TemplateLimitError("The chat template translates text by a table.")


_OF_JINJA = ("_loop_vars", "_block_vars")
"""What compiled code adds to every call inside a loop or a block; `Environment.call` takes it out again."""
_METHODS: Mapping[str, Callable[..., None]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
    "expandtabs": _expanded,
    "format": lambda pattern, *values, **named: filled(pattern, (*values, *named.values())),
    "format_map": lambda pattern, values: filled(pattern, values.values()),
    "join": _joined,
    "replace": replaced,
    "rsplit": _parted,
    "split": _parted,
    "translate": _translated,
}


def look_at_method(method: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Before a method of a text is called. Wrong arguments are left to the method to complain of."""
    method = getattr(method, "__wrapped__", method)  # Jinja puts its own around `format`
    text = getattr(method, "__self__", None)
    if isinstance(text, str) and (look := _METHODS.get(getattr(method, "__name__", ""))) is not None:
        look(text, *args, **{name: value for name, value in kwargs.items() if name not in _OF_JINJA})


@pass_eval_context
def replace(context: EvalContext, text: str, old: str, new: str, count: int | None = None) -> str:
    replaced(str(text), str(old), str(new))
    return do_replace(context, text, old, new, count)


def indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    size = len(width) if isinstance(width, str) else width
    within(len(text) + (text.count("\n") + 1) * size)
    return do_indent(text, width, first, blank)


@pass_eval_context
def join(context: EvalContext, values: Iterable[Any], by: str = "", attribute: str | int | None = None) -> str:
    found = values if isinstance(values, list | tuple | str) else list(values)
    within(len(str(by)) * len(found) + sum(len(value) for value in found if isinstance(value, str)))
    return sync_do_join(context, found, by, attribute)


@pass_environment
def total(environment: Any, values: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    """Sums of numbers only: one of lists copies all that came before, for each."""
    if not isinstance(start, Number):
        raise TemplateLimitError("The chat template adds up something that is no number.")
    return do_sum(environment, iter(values), attribute, start)
