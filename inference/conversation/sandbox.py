"""A Jinja environment for templates that came with a model: they compute text, within limits of time and size.

Jinja's own sandbox keeps a template from reaching Python. It does not end nested loops (measured: they ran until the
process was killed) nor stop `10 ** 10000000`. So every loop and macro body gets a call that looks at a deadline, and
the operators that can build something enormous look at their operands first.
"""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from inference.conversation import bounded
from inference.conversation.allowance import TemplateLimitError, allowance, spread, within

TICK = f"tick_{secrets.token_hex(4)}"
JOIN = f"join_{secrets.token_hex(4)}"
BUILT = f"built_{secrets.token_hex(4)}"
LOOK = f"look_{secrets.token_hex(4)}"
EACH = f"each_{secrets.token_hex(4)}"
"""Names no template can know, so none can assign them."""
MAX_INTEGER = 1 << 24
_AT_ONCE = frozenset({"dictsort", "join", "list", "sort", "string", "tojson"})
_ITEM_BY_ITEM = frozenset({"map", "reject", "rejectattr", "select", "selectattr", "unique"})
"""Filters that go through all of a value, which may be a text of many characters: 0.15 s in a step of the template."""
_PLAIN = frozenset({LoopContext, str})
"""Types without any public attribute that could do harm."""
_DICT_METHODS = frozenset(name for name in dir(dict))
_FORMATS = frozenset({"format", "format_map"})
_GROWING = frozenset({"**", "*", "+", "%"})


def raise_exception(message: object) -> NoReturn:
    """What templates call to refuse a conversation."""
    raise TemplateError(str(message))


def to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own `tojson` escapes HTML, which no model was trained on."""
    if indent is not None:
        within(indent, 64)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class GenerationBlock(Extension):
    """`{% generation %}` marks what a trainer learns from; for a prompt its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration is a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@pass_context
def _tick(context: Context, _: object) -> None:
    context.parent[TICK]()


@pass_context
def _look[T](context: Context, value: T) -> T:
    context.parent[TICK](at_once=True)
    return value


@pass_context
def _each(context: Context, value: Any) -> Any:
    return _ticking(value, context.parent[TICK]) if value else value


def _ticking(values: Iterable[Any], tick: Callable[[], None]) -> Iterator[Any]:
    for value in values:
        tick()
        yield value


class _Guard(NodeTransformer):
    """Puts the tick into every body that can repeat and before what goes through a value, and makes `~` and lists of
    values calls that can be bounded."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        return self._ticked(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:  # noqa: N802
        return self._ticked(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:  # noqa: N802
        return self._ticked(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(JOIN, nodes.List(node.nodes, lineno=node.lineno))

    def visit_Filter(self, node: nodes.Filter) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        if node.node is not None and node.name in _AT_ONCE | _ITEM_BY_ITEM:
            node.node = _filter(LOOK if node.name in _AT_ONCE else EACH, node.node)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Expr:  # noqa: N802
        return self._bounded(node, all(isinstance(one, nodes.Const) for one in node.items))

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:  # noqa: N802
        return self._bounded(node, all(isinstance(pair.value, nodes.Const) for pair in node.items))

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        return self._bounded(node, node.ctx != "load" or all(isinstance(one, nodes.Const) for one in node.items))

    def _bounded(self, node: nodes.Expr, plain: bool) -> nodes.Expr:
        self.generic_visit(node)
        return node if plain else _filter(BUILT, node)

    def _ticked[N: (nodes.For, nodes.Macro, nodes.CallBlock)](self, node: N) -> N:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_filter(TICK, nodes.Const(0)), lineno=node.lineno))
        return node


def _filter(name: str, value: nodes.Expr) -> nodes.Filter:
    """A filter is a plain function call in the compiled code, without the sandbox's checks of a call: 0.1 for 1 µs."""
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Jinja with the settings chat templates are written for."""

    intercepted_binops = _GROWING

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols])
        del self.globals["lipsum"]
        self.filters = {name: one for name, one in self.filters.items() if name not in bounded.UNKNOWN_FILTERS}
        self.filters |= {"replace": bounded.replace, "indent": bounded.indent, "join": bounded.join}
        self.filters |= {"sum": bounded.total, "tojson": to_json, "format": format_text}
        self.filters |= {TICK: _tick, LOOK: _look, EACH: _each, JOIN: join_text, BUILT: built}
        self.globals["raise_exception"] = raise_exception

    def guarded(self, source: str) -> tuple[Any, nodes.Template]:
        """Compiled code with the guards in it, and the template's own syntax tree as it was written."""
        code = self.compile(_Guard().visit(self.parse(source)))
        return code, self.parse(source)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`message.content` on a dict first fails as an attribute in Jinja; here it is looked up at once."""
        if type(obj) is dict and attribute not in _DICT_METHODS:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if attribute in _FORMATS and isinstance(obj, str) and bounded.WIDE.search(obj):
            raise TemplateLimitError("The chat template formats text with a very large width.")
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if type(obj) in _PLAIN and not attr.startswith("_"):
            return True
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            if isinstance(left, list):
                context.parent[TICK](at_once=True)
            return _checked_size(left + right)
        if operator == "%" and isinstance(left, str):
            return format_text(left, *(right if isinstance(right, tuple) else (right,)))
        if operator in {"*", "**"} and not (_is_small(left) and _is_small(right)):
            raise TemplateLimitError("The chat template multiplies something very large.")
        if operator == "*":
            bounded.repeated(left, right)
        if operator == "**" and isinstance(right, int) and right > 64:
            raise TemplateLimitError("The chat template raises a number to a very large power.")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):  # no generator: a render calls its macros a thousand times
            if isinstance(value, int) and value > MAX_INTEGER:
                raise TemplateLimitError("The chat template passes a very large number to a function.")
        bounded.look_at_method(obj, args, kwargs)
        return super().call(context, obj, *args, **kwargs)


def join_text(values: Sequence[Any]) -> str:
    return str(_checked_size("".join(map(str, values))))


@pass_context
def built[T](context: Context, value: T) -> T:
    """A list or object of the template's own."""
    context.parent[TICK](at_once=True)
    spread(value)
    return value


def format_text(pattern: str, *values: Any) -> str:
    """printf-style formatting without huge field widths."""
    if bounded.WIDE.search(pattern):
        raise TemplateLimitError("The chat template formats text with a very large width.")
    bounded.filled(pattern, values)
    return str(pattern) % values


def _is_small(value: Any) -> bool:
    if isinstance(value, int | float):
        return abs(value) <= MAX_INTEGER
    return not hasattr(value, "__len__") or len(value) <= 4096


def _checked_size(value: Any) -> Any:
    if isinstance(value, str):
        within(len(value))
    elif isinstance(value, list | tuple):
        spread(value)
    return value


def deadline_tick(limit_s: float, now: Callable[[], float] = time.thread_time) -> Callable[..., None]:
    """A function for `TICK` that ends the render once it used `limit_s` seconds of its thread's processor time.

    Not the wall clock: a busy machine must not refuse what an idle one renders. Every 32nd call looks at the clock,
    and one with `at_once`.
    """
    end = now() + limit_s
    calls = itertools.count(1)

    def tick(*, at_once: bool = False) -> None:
        if (at_once or not next(calls) % 32) and now() > end:
            allowance().refuse(f"The chat template ran longer than {limit_s:g} s.")

    return tick


def collect(parts: Iterable[str], min_chars: int, allowed_chars: Callable[[], int]) -> str:
    """The output of a render, refused as soon as it grows past both bounds. The second is asked when it matters."""
    pieces: list[str] = []
    total, bound = 0, min_chars
    for part in parts:
        total += len(part)
        if total > bound:
            bound = max(bound, allowed_chars())
            if total > bound:
                allowance().refuse(f"The chat template wrote more than {bound} characters.")
        pieces.append(part)
    return "".join(pieces)
