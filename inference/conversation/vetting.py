"""Tells by its syntax whether a chat template may be rendered in the process that serves everybody.

It may when each step it can take is known to be small and every way to repeat steps passes a look at the clock. Known
are the constructs that chat templates are made of, and nothing else: what is not listed here is not plain. A template
that is not plain is rendered all the same, where it can be killed. (All of 72 templates of published model families
are plain, 19,600 characters the longest, and all that this project is tested with.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from jinja2 import TemplateError, nodes

from inference.conversation.sandbox import ChatEnvironment
from inference.conversation.vetting_repeats import repeats_are_plain

MAX_SOURCE_CHARS: Final = 256 << 10
"""Of any template. The longest of a published family has 20,000."""
_MAX_PLAIN_CHARS: Final = 64 << 10
_MAX_NODES: Final = 4096
"""To compile that many takes half a second. Families have up to 1,400."""
_MAX_ASSIGNED: Final = 256
"""Values that can be alive at once, of a quarter of a million characters each. Families have up to 58."""
_MAX_INTEGER: Final = 1 << 16

_PLAIN_NODES: Final = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Const,
    nodes.If,
    nodes.CondExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Neg,
    nodes.Add,
    nodes.Sub,
    nodes.Concat,
    nodes.Assign,
    nodes.AssignBlock,
    nodes.NSRef,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Slice,
    nodes.List,
    nodes.Tuple,
    nodes.Dict,
    nodes.Pair,
    nodes.Keyword,
    nodes.Break,
    nodes.Continue,
    nodes.Macro,
    nodes.Test,
)
# fmt: off
_FILTERS: Final = frozenset({
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "join", "last",
    "length", "list", "lower", "map", "reject", "rejectattr", "replace", "reverse", "safe", "select", "selectattr",
    "string", "title", "tojson", "trim", "unique", "upper",
})
_METHODS: Final = frozenset({
    "capitalize", "count", "endswith", "find", "get", "index", "isalnum", "isalpha", "isdigit", "items", "keys",
    "lower", "lstrip", "removeprefix", "removesuffix", "replace", "rfind", "rsplit", "rstrip", "split", "splitlines",
    "startswith", "strip", "title", "upper", "values",
})
# fmt: on
_FUNCTIONS: Final = frozenset({"namespace", "raise_exception", "range", "strftime_now"})
_MAPPED: Final = frozenset({"capitalize", "lower", "string", "title", "tojson", "trim", "upper"})
_HIDDEN: Final = frozenset({"caller", "cycler", "dict", "joiner", "kwargs", "self", "varargs"})


def is_plain(source: str) -> bool:
    """Whether every step of a template is small. False also for what cannot be parsed."""
    if len(source) > _MAX_PLAIN_CHARS:
        return False
    try:
        tree = ChatEnvironment().parse(source)
        return _Vetting(tree).passes() and repeats_are_plain(tree)
    except (RecursionError, TemplateError):
        return False


class _Vetting:
    """One look at every node of a template."""

    def __init__(self, tree: nodes.Template) -> None:
        self._tree = tree
        self._macros = {macro.name for macro in tree.find_all(nodes.Macro)}
        self._spaces = set(map(_name, _assigned_to(tree, lambda node: _calls(node, "namespace"))))
        self._bases = {id(node.node) for node in tree.find_all(nodes.Getattr)}
        tests = (test for test in tree.find_all(nodes.Test) if test.name in {"defined", "undefined"})
        self._asked_for = {id(test.node) for test in tests}
        self._callees = {id(node.node) for node in tree.find_all(nodes.Call)}

    def passes(self) -> bool:
        stored = [node.name for node in self._tree.find_all(nodes.Name) if node.ctx != "load"]
        if self._macros & set(stored) or (self._macros | set(stored)) & (_FUNCTIONS | _HIDDEN):
            return False  # the name of a function must mean that function
        found = list(_all(self._tree))
        assigned = sum(isinstance(node, nodes.Assign | nodes.AssignBlock) for node in found)
        return len(found) <= _MAX_NODES and assigned <= _MAX_ASSIGNED and all(map(self._allows, found))

    def _allows(self, node: nodes.Node) -> bool:
        match node:
            case nodes.Const(value=int() as value):
                return abs(value) <= _MAX_INTEGER
            case nodes.Name():
                return self._allows_name(node)
            case nodes.Call():
                return node.dyn_args is None and node.dyn_kwargs is None and self._allows_call(node)
            case nodes.Filter():
                return _allows_filter(node)
            case nodes.For():
                return not node.recursive
            case nodes.Mod():  # of numbers: the other use of the sign is the formatting of text
                return isinstance(node.left, nodes.Name | nodes.Getattr | nodes.Filter) and _is_number(node.right)
            case nodes.Getattr(attr=name) if name.startswith("_"):
                return False
            case _:
                return isinstance(node, _PLAIN_NODES)

    def _allows_name(self, node: nodes.Name) -> bool:
        """Functions are only called and namespaces only looked into: neither is passed on under another name."""
        if node.name in _HIDDEN:
            return False
        if node.ctx != "load" or id(node) in self._callees:
            return True
        if node.name in self._spaces:
            return id(node) in self._bases
        if id(node) in self._asked_for:
            return True
        return node.name not in _FUNCTIONS and node.name not in self._macros

    def _allows_call(self, node: nodes.Call) -> bool:
        match node.node:
            case nodes.Name(name="strftime_now"):
                return _is_date(node.args)
            case nodes.Name(name=name):
                return name in _FUNCTIONS or name in self._macros
            case nodes.Getattr(attr="replace"):
                return _are_texts(node.args)
            case nodes.Getattr(attr=name):
                return name in _METHODS
            case _:
                return False


def _allows_filter(node: nodes.Filter) -> bool:
    if node.name not in _FILTERS or node.node is None or node.dyn_args is not None or node.dyn_kwargs is not None:
        return False
    if node.name == "replace":
        return _are_texts(node.args)
    if node.name == "map":  # by the name of a filter, or of an attribute
        return all(isinstance(one, nodes.Const) and one.value in _MAPPED for one in node.args)
    return True


def _is_number(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, int)


def _are_texts(values: Iterable[nodes.Expr]) -> bool:
    """Constants, so that nobody who sends a request chooses what takes the place of what."""
    return all(isinstance(one, nodes.Const) and isinstance(one.value, str | int) for one in values)


def _is_date(values: list[nodes.Expr]) -> bool:
    """A pattern that asks for no width."""
    return all(isinstance(one, nodes.Const) and not any(map(str.isdigit, str(one.value))) for one in values)


def _all(tree: nodes.Node) -> Iterable[nodes.Node]:
    yield tree
    yield from tree.find_all(nodes.Node)


def _assigned_to(tree: nodes.Template, is_value: Callable[[nodes.Node], bool]) -> Iterable[nodes.Node]:
    return (one.target for one in tree.find_all(nodes.Assign) if is_value(one.node))


def _calls(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Call) and _name(node.node) == name


def _name(node: Any) -> str:
    return node.name if isinstance(node, nodes.Name) else ""
