"""Every route takes the methods it declares and no other, whoever asks; and what everybody may ask tells nothing."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from mlxd import runtime
from mlxd.api import policy
from mlxd.api.auth import Public
from mlxd.api.root import api
from mlxd.keys import access
from mlxd.keys.access import Access
from mlxd.served import ServedModel
from mlxd.transport.gate import METHODS
from tests.integration.api_scripted import Call, StandIn, browser

TOKEN = "mlxd_admin_" + "t" * 43
SECRET = "0" * 64
ADMIN = {"authorization": f"Bearer {TOKEN}"}
OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override")
PAGES: Mapping[str, set[str]] = {"/": {"GET", "HEAD"}, "/login": {"GET", "HEAD"}}


def declared() -> dict[str, set[str]]:
    """The methods of every path."""
    found: dict[str, set[str]] = defaultdict(set)
    for prefix, router in api._routers:
        for path, view in router.path_operations.items():
            for operation in view.operations:
                found[re.sub(r"\{[^}]*\}", "x", f"{prefix}{path}")] |= set(operation.methods)
    return {**found, **PAGES}


ROUTES = declared()
OPEN = [
    f"{prefix}{path}"
    for prefix, router in api._routers
    for path, view in router.path_operations.items()
    for operation in view.operations
    if isinstance(operation.auth_callbacks[0], Public)
]


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    made = StandIn(models=(ServedModel("quite/secret", Path("/where/it/lies"), 1),))
    runtime.install(made)  # type: ignore[arg-type]
    policy.install(policy.Policy(admin_digest=policy.digest(TOKEN), secret=SECRET.encode()))
    access.install(Access(token_file=tmp_path / "admin.token"))
    yield made
    runtime.install(None)
    policy.install(policy.Policy())
    access.install(Access())


@pytest.mark.parametrize("path", ROUTES)
async def test_a_route_takes_the_methods_it_declares(path: str, stand_in: StandIn) -> None:
    for method in {*METHODS, "OPTIONS", "TRACE"} - ROUTES[path]:
        everything = {**ADMIN, **await browser(), **dict.fromkeys(OVERRIDES, min(ROUTES[path]))}
        answer = await Call(method, path, b"{}", everything).start().result()
        assert answer.status == 405, (method, path)
        assert answer.headers["allow"] == ", ".join(sorted(ROUTES[path]))
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert not stand_in.made and len(ROUTES) > 40


@pytest.mark.parametrize("ready", [(True, "ready"), (False, "loading"), (False, "draining")])
async def test_what_everybody_may_ask_tells_nothing(ready: tuple[bool, str], stand_in: StandIn) -> None:
    stand_in.ready = ready
    assert {path for path in OPEN if path.startswith("/health")} >= {"/health/live", "/health/ready", "/health"}
    for path in [*(path for path in OPEN if "GET" in ROUTES[path]), "/login", "/nothing", "/static/nothing"]:
        for headers in ({}, {"authorization": "Bearer any"}):
            answer = await Call("GET", path, headers=headers).start().result()
            told = f"{answer.headers} {answer.body.decode()}"
            assert not [word for word in ("secret", "it/lies", TOKEN[11:], SECRET) if word in told], path
            assert answer.headers["x-content-type-options"] == "nosniff"
            if path.startswith("/health"):
                assert len(answer.body) < 150
    live = await Call("GET", "/health/live").start().result()
    assert live.body == b'{"status": "ok"}'


async def test_whatever_is_answered_is_what_its_type_says() -> None:
    for path in ("/login", "/v1/models", "/api/status", "/static/dashboard/status.js", "/static/dashboard/icon.svg"):
        answer = await Call("GET", path, headers=ADMIN if path == "/api/status" else {}).start().result()
        assert answer.status == 200 and answer.headers["x-content-type-options"] == "nosniff", path
