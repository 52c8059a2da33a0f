"""Changes of an admin whose connection goes away half-way, and two of them at a time: each is made whole, or not."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxd import runtime
from mlxd.api import policy
from mlxd.config import BY_NAME, Config
from mlxd.config.load import LoadedConfig, Origin
from mlxd.keys import access
from mlxd.keys.access import Access
from mlxd.keys.key import ApiKey
from mlxd.keys.keyring import Keyring, KeysUnavailable
from mlxd.live_settings import LiveSettings
from mlxd.paths import new_admin_token
from mlxd.saved_settings import write_saved
from tests.integration.api_scripted import Call, StandIn, get, post
from tests.scripted import until

TOKEN = "mlxd_admin_" + "t" * 43
ADMIN = {"authorization": f"Bearer {TOKEN}"}


class SlowShelf:
    """Keys on a disk that has taken a change and has not said so yet."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.said = asyncio.Event()
        self.taken = 0

    async def add(self, key: ApiKey) -> None:
        if key.name in self.names.values():
            raise KeysUnavailable("The database does not take it (IntegrityError).")
        self.names[key.id] = key.name
        await self._slowly()

    async def remove(self, key_id: str) -> None:
        self.names.pop(key_id)
        await self._slowly()

    async def used(self, usages: Any) -> None: ...

    def close(self, usages: Any) -> None: ...

    async def _slowly(self) -> None:
        self.taken += 1
        await self.said.wait()


class Gate:
    """Stands before a function that runs in a thread, which waits inside until it is let on."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self.work, self.reached, self.open = work, threading.Event(), threading.Event()

    def __call__(self, *given: Any) -> Any:
        self.reached.set()
        assert self.open.wait(60)
        return self.work(*given)


@pytest.fixture(autouse=True)
def serving(tmp_path: Path) -> Iterator[None]:
    runtime.install(StandIn())  # type: ignore[arg-type]
    policy.install(policy.Policy(admin_digest=policy.digest(TOKEN)))
    access.install(Access(token_file=tmp_path / "admin.token"))
    yield
    runtime.install(None)
    policy.install(policy.Policy())
    access.install(Access())


async def left(method: str, path: str, body: bytes, reached: Callable[[], object]) -> None:
    """An order whose client goes away while it is being carried out."""
    call = Call(method, path, body, headers=ADMIN).start()
    await until(reached)
    call.disconnect()
    await call.result()


async def opens(headers: dict[str, str], path: str = "/api/keys") -> bool:
    return (await get(path, headers=headers)).status == 200


async def test_a_token_that_stands_in_its_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(new_admin_token)
    monkeypatch.setattr("mlxd.api.login.new_admin_token", gate)
    minted = access.current().codes.mint(0.0)
    await left("POST", "/api/token/rotate", b"{}", gate.reached.is_set)
    gate.open.set()
    await until((tmp_path / "admin.token").exists)
    fresh = {"authorization": f"Bearer {(tmp_path / 'admin.token').read_text().strip()}"}
    await until(lambda: access.admin() != policy.digest(TOKEN))
    assert await opens(fresh) and not await opens(ADMIN)
    assert not access.current().codes.redeem(minted, 0.0)


async def test_of_two_new_tokens_the_one_in_the_file_counts(tmp_path: Path) -> None:
    await asyncio.gather(*(post("/api/token/rotate", {}, headers=ADMIN) for _ in range(8)))
    token = (tmp_path / "admin.token").read_text().strip()
    assert access.admin() == policy.digest(token)


async def test_a_key_that_is_gone_from_the_disk_opens_nothing() -> None:
    shelf = SlowShelf()
    access.install(Access(Keyring(shelf)))
    shelf.said.set()
    made = (await post("/api/keys", {"name": "alice"}, headers=ADMIN)).json()
    key = {"x-api-key": made["key"]}
    assert await opens(key, "/v1/models")
    shelf.said.clear()
    await left("DELETE", "/api/keys/alice", b"", lambda: shelf.taken == 2)
    shelf.said.set()
    await until(lambda: not access.current().keyring.rows())
    assert not shelf.names and not await opens(key, "/v1/models")


async def test_a_key_that_is_on_the_disk_is_listed() -> None:
    shelf = SlowShelf()
    access.install(Access(Keyring(shelf)))
    await left("POST", "/api/keys", b'{"name": "alice"}', lambda: shelf.taken)
    shelf.said.set()
    await until(access.current().keyring.rows)
    assert [key.name for key, _ in access.current().keyring.rows()] == [*shelf.names.values()] == ["alice"]


async def test_of_two_keys_of_one_name_the_second_is_told_that_it_is_taken() -> None:
    shelf = SlowShelf()
    access.install(Access(Keyring(shelf)))
    calls = [Call("POST", "/api/keys", b'{"name": "alice"}', headers=ADMIN).start() for _ in range(2)]
    await until(lambda: shelf.taken)
    shelf.said.set()
    first, second = sorted([await call.result() for call in calls], key=lambda answer: answer.status)
    assert (first.status, second.status) == (200, 400), second.body
    assert second.refusal["param"] == "name" and len(shelf.names) == 1


# --- settings ---------------------------------------------------------------------------------------------------


class Settled(StandIn):
    """With settings that may change."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.settings = LiveSettings(
            LoadedConfig(Config(state_dir=path.parent), dict.fromkeys(BY_NAME, Origin.DEFAULT)), path
        )
        self.default_model, self.strict_models, self.scheduler = "", False, self

    def limit(self, _settings: object) -> None: ...

    def apply_rules(self) -> None: ...


@pytest.fixture
def slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    runtime.install(Settled(tmp_path / "settings.json"))  # type: ignore[arg-type]
    gate = Gate(write_saved)
    monkeypatch.setattr("mlxd.live_settings.write_saved", gate)
    return gate


async def test_settings_that_were_saved_hold(tmp_path: Path, slow_disk: Gate) -> None:
    await left("POST", "/api/settings", b'{"temperature": 0.5}', slow_disk.reached.is_set)
    slow_disk.open.set()
    await until(lambda: policy.current().sampling)
    assert policy.current().sampling == {"temperature": 0.5}
    assert json.loads((tmp_path / "settings.json").read_text())["knobs"] == {"temperature": 0.5}


async def test_settings_bring_back_no_token_that_was_replaced(slow_disk: Gate) -> None:
    changing = Call("POST", "/api/settings", b'{"temperature": 0.5}', headers=ADMIN).start()
    await until(slow_disk.reached.is_set)
    assert (await post("/api/token/rotate", {}, headers=ADMIN)).status == 200
    slow_disk.open.set()
    assert (await changing.result()).status == 200
    assert not await opens(ADMIN)
