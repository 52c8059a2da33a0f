"""Who only asks changes nothing, whoever it is: every path by GET, HEAD and OPTIONS, with every credential there is."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from tests.e2e.doors import DOORS, Guarded, rows

ASKING = ("GET", "HEAD", "OPTIONS")
STATIC = ("/static/dashboard/status.js", "/static/dashboard/nothing.js", "/nothing")


def kept(guarded: Guarded) -> dict[str, Any]:
    """The database, every other file but the log, and what may be told without a clock."""
    state, admin = guarded.served.state_dir, guarded.served.admin
    files = {
        str(path.relative_to(state)): sha256(path.read_bytes()).hexdigest()
        for path in state.rglob("*")
        if path.is_file() and "sqlite3" not in path.name and path.parent.name != "logs"
    }
    settings = guarded.client.get("/api/settings", headers=admin).json()
    listed = guarded.client.get("/api/models", headers=admin).json()["models"]
    models = [(model["id"], model["state"], model["pinned"], model["settings"]) for model in listed]
    return {"rows": rows(state), "files": files, "settings": settings, "models": models}


def test_whoever_asks_changes_nothing(guarded: Guarded) -> None:
    credentials = [{}, guarded.served.admin, guarded.admin, guarded.infer, guarded.served.browser()]
    before, told = kept(guarded), set[int]()
    for path in {*(door.path for door in DOORS), *STATIC}:
        for method in ASKING:
            told |= {guarded.client.request(method, path, headers=given).status_code for given in credentials}
    after = kept(guarded)
    assert {part: after[part] == before[part] for part in before} == dict.fromkeys(before, True)
    assert told >= {200, 401, 403, 405} and max(told) < 500


def test_what_changes_something_is_seen(guarded: Guarded) -> None:
    """A key made, a setting saved and a file written: each shows in what is compared above."""
    before = kept(guarded)
    assert guarded.client.post("/api/keys", headers=guarded.served.admin, json={"name": "new"}).status_code == 200
    assert guarded.client.post("/api/settings", headers=guarded.served.admin, json={"temperature": 0.5}).is_success
    after = kept(guarded)
    assert {part for part in before if after[part] != before[part]} == {"rows", "files", "settings"}
