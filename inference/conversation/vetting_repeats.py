"""Whether what a chat template repeats is bounded by what it was given: its loops, its ranges and its recursion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import Final

from jinja2 import nodes

_MAX_LOOPS: Final = 4
_MAX_FREE_LOOPS: Final = 2
"""Loops inside each other that do not go down into what the outer one goes through."""
_MAX_RANGE: Final = 64
_PASSED_THROUGH: Final = frozenset({"items", "dictsort", "list", "default", "d"})


def repeats_are_plain(tree: nodes.Template) -> bool:
    """Loops are few deep, ranges as long as something that was given, and macros call themselves for parts only."""
    return (
        _loops_are_plain(tree, frozenset(), 0, 0)
        and all(_range_is_plain(call) for call in _named_calls(tree, {"range"}))
        and _recursion_is_plain(tree)
    )


def _named_calls(tree: nodes.Node, names: Set[str]) -> Iterator[nodes.Call]:
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name in names:
            yield call


# --- loops ------------------------------------------------------------------------------------------------------


def _loops_are_plain(node: nodes.Node, inside: frozenset[str], deep: int, free: int) -> bool:
    """`inside` are the names that stand for parts of what the loops around this node go through."""
    for child in node.iter_child_nodes():
        if not isinstance(child, nodes.For):
            if not _loops_are_plain(child, inside | _parts_set(child, inside), deep, free):
                return False
            continue
        names = inside | _bound(child.target)
        more = free + (not _is_part(child.iter, inside, by_number=True))
        if deep >= _MAX_LOOPS or more > _MAX_FREE_LOOPS or not _loops_are_plain(child, names, deep + 1, more):
            return False
    return True


def _parts_set(node: nodes.Node, parts: frozenset[str]) -> frozenset[str]:
    """Names that are set anywhere in a node to a part of what is gone through."""
    found: frozenset[str] = frozenset()
    for one in node.find_all(nodes.Assign):
        if isinstance(one.target, nodes.Name) and _is_part(one.node, parts | found, own=True, by_number=True):
            found |= {one.target.name}
    return found


def _bound(target: nodes.Node) -> frozenset[str]:
    own = {target.name} if isinstance(target, nodes.Name) else set()
    return frozenset(own | {name.name for name in target.find_all(nodes.Name)})


# --- ranges -----------------------------------------------------------------------------------------------------


def _range_is_plain(call: nodes.Call) -> bool:
    return not call.kwargs and all(map(_is_count, call.args))


def _is_count(node: nodes.Expr) -> bool:
    """A small number, the length of something, the number of a turn of a loop, and sums of these."""
    match node:
        case nodes.Const(value=int() as value):
            return abs(value) <= _MAX_RANGE
        case nodes.Neg(node=inner):
            return _is_count(inner)
        case nodes.Add(left=left, right=right) | nodes.Sub(left=left, right=right):
            return _is_count(left) and _is_count(right)
        case nodes.Filter(name="length" | "count"):
            return True
        case nodes.Getattr(node=nodes.Name(name="loop"), attr="index" | "index0" | "revindex" | "revindex0" | "length"):
            return True
        case _:
            return False


# --- recursion --------------------------------------------------------------------------------------------------


def _recursion_is_plain(tree: nodes.Template) -> bool:
    """A macro that can come back to itself does so with a part of what it was called with."""
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    called = {name: {_callee(call) for call in _named_calls(macro, set(macros))} for name, macro in macros.items()}
    for name, macro in macros.items():
        back = {other for other in called[name] if name in _reached(other, called)}
        parts = _parts_of_parameters(macro)
        if not all(_goes_down(call, parts) for call in _named_calls(macro, back)):
            return False
    return True


def _callee(call: nodes.Call) -> str:
    return call.node.name if isinstance(call.node, nodes.Name) else ""


def _reached(start: str, called: dict[str, set[str]]) -> set[str]:
    found, new = {start}, [start]
    while new:
        more = called.get(new.pop(), set()) - found
        found |= more
        new += more
    return found


def _parts_of_parameters(macro: nodes.Macro) -> tuple[frozenset[str], frozenset[str]]:
    """Names of a macro that stand for what it was given or parts of that, and those that stand for parts."""
    whole = frozenset(argument.name for argument in macro.args)
    parts: frozenset[str] = frozenset()
    for node in macro.find_all((nodes.For, nodes.Assign)):
        match node:
            case nodes.For(target=target, iter=gone_through) if _is_part(gone_through, whole | parts):
                parts |= _bound(target)
            case nodes.Assign(target=target, node=value) if _is_strict(value, whole, parts):
                parts |= _bound(target)
            case _:
                pass
    return whole, parts


def _goes_down(call: nodes.Call, names: tuple[frozenset[str], frozenset[str]]) -> bool:
    given: Iterable[nodes.Expr] = (*call.args, *(one.value for one in call.kwargs))
    return any(_is_strict(one, *names) for one in given)


def _is_strict(node: nodes.Node, whole: frozenset[str], parts: frozenset[str]) -> bool:
    """A part of a parameter, not all of it."""
    match node:
        case nodes.Name(name=name):
            return name in parts
        case nodes.Getattr(node=inner) | nodes.Getitem(node=inner):
            return _is_part(inner, whole | parts)
        case nodes.Filter(node=nodes.Expr() as inner, args=instead):
            return _is_strict(inner, whole, parts) and all(isinstance(one, nodes.Const) for one in instead)
        case _:
            return False


def _is_part(node: nodes.Node, names: frozenset[str], *, own: bool = False, by_number: bool = False) -> bool:
    """An expression that leads into what one of `names` stands for. `own`: the name alone does not count. `by_number`:
    a name may also be that of the number of an item."""
    match node:
        case nodes.Name(name=name):
            return not own and name in names
        case nodes.Getitem(node=inner, arg=nodes.Name(name=number)) if by_number and number in names:
            return True
        case nodes.Getattr(node=inner) | nodes.Getitem(node=inner) | nodes.Call(node=nodes.Getattr(node=inner)):
            return _is_part(inner, names, by_number=by_number)
        case nodes.Filter(node=nodes.Expr() as inner, name=name) if name in _PASSED_THROUGH:
            return _is_part(inner, names, by_number=by_number)
        case nodes.Or(left=left) | nodes.CondExpr(expr1=left):
            return _is_part(left, names, by_number=by_number)
        case _:
            return False
