"""Deny by default: an operation or a page that says nothing about who may have it stops the start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, register
from django.urls import URLPattern, URLResolver, get_resolver
from ninja import NinjaAPI

from mlxd.api.auth import AdminBearer, AnyKey, Public
from mlxd.keys.pages import MARK

DECLARATIONS = (Public, AnyKey, AdminBearer)


def undeclared(api: NinjaAPI) -> Iterator[str]:
    """`METHODS path` of every operation whose auth is not exactly one of ours."""
    for prefix, router in api._routers:
        for path, view in router.path_operations.items():
            for operation in view.operations:
                declared = operation.auth_callbacks
                if len(declared) != 1 or not isinstance(declared[0], DECLARATIONS):
                    yield f"{','.join(operation.methods)} {prefix}{path}"


def unmarked(patterns: Sequence[URLPattern | URLResolver], before: str = "") -> Iterator[str]:
    """The routes of every view that is no operation of the API, and neither open to all nor for the signed-in."""
    for pattern in patterns:
        route = f"{before}{pattern.pattern}"
        if isinstance(pattern, URLResolver):
            if pattern.app_name != "ninja":
                yield from unmarked(pattern.url_patterns, route)
        elif not getattr(pattern.callback, MARK, ""):
            yield f"/{route}"


@register()
def everything_declares_who_may_have_it(**_: Any) -> list[CheckMessage]:
    from mlxd.api.root import api  # the API is built when the check runs, not when settings are read

    open_by_mistake = [*undeclared(api), *unmarked(get_resolver().url_patterns)]
    return [Error(f"{name} has no auth declaration.", id="mlxd.E001") for name in open_by_mistake]
