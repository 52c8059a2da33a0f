"""Deny by default: an operation that says nothing about who may call it stops the start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error, register
from ninja import NinjaAPI

from mlxd.api.auth import AdminBearer, AnyKey, Public

DECLARATIONS = (Public, AnyKey, AdminBearer)


def undeclared(api: NinjaAPI) -> Iterator[str]:
    """`METHODS path` of every operation whose auth is not exactly one of ours."""
    for prefix, router in api._routers:
        for path, view in router.path_operations.items():
            for operation in view.operations:
                declared = operation.auth_callbacks
                if len(declared) != 1 or not isinstance(declared[0], DECLARATIONS):
                    yield f"{','.join(operation.methods)} {prefix}{path}"


@register()
def every_operation_declares_its_auth(**_: Any) -> list[CheckMessage]:
    from mlxd.api.root import api  # the API is built when the check runs, not when settings are read

    return [Error(f"{name} has no auth declaration.", id="mlxd.E001") for name in undeclared(api)]
