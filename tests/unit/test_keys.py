"""Keys in memory: what opens what, for how long, how often, and that a change counts at once or not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import InvalidParameter
from inference.events import Usage as Cost
from mlxd.keys.key import PREFIX, ApiKey, Scope, Usage, digest, make_key, shown
from mlxd.keys.keyring import Keyring, KeysUnavailable
from mlxd.keys.pace import WINDOW_S, Pace
from mlxd.ledger.record import GenerationRecord


def free(_: str) -> bool:
    return False


class Shelf:
    """Keeps what it is given in a dictionary, unless it is `out`."""

    def __init__(self) -> None:
        self.keys: dict[str, ApiKey] = {}
        self.usages: dict[str, Usage] = {}
        self.out = False

    async def add(self, key: ApiKey) -> None:
        self._check()
        self.keys[key.id] = key

    async def remove(self, key_id: str) -> None:
        self._check()
        del self.keys[key_id]

    async def used(self, usages: Mapping[str, Usage]) -> None:
        self._check()
        self.usages |= usages

    def close(self, usages: Mapping[str, Usage]) -> None:
        self.usages |= usages

    def _check(self) -> None:
        if self.out:
            raise KeysUnavailable("The disk is out.")


def cost(key: ApiKey, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> GenerationRecord:
    usage = Cost(prompt_tokens, cached_tokens=cached_tokens, completion_tokens=completion_tokens)
    return GenerationRecord("r", key.id, "tiny", "stop", "", usage, 0, 0.0, 0.0)


def test_a_key_is_256_bits_of_which_the_digest_is_kept() -> None:
    secret, key = make_key("alice", free)
    assert secret.startswith(PREFIX) and len(secret) == len(PREFIX) + 43
    assert key.digest == digest(secret) and key.id == digest(secret).hex()[:8]
    assert secret not in repr(key) and secret[len(PREFIX) :] not in str(shown(key, Usage()))
    assert len({make_key("alice", free)[0] for _ in range(100)}) == 100


def test_an_id_that_is_taken_is_not_given_again() -> None:
    asked: list[str] = []

    def twice(name: str) -> bool:
        asked.append(name)
        return name != "alice" and len(asked) < 4

    _, key = make_key("alice", twice)
    assert asked == ["alice", *asked[1:3], key.id] and len(set(asked)) == 4


@pytest.mark.parametrize("name", ["", " a", "a\nb", "a/b", "-a", "ü", "a" * 65, "a'; DROP TABLE ledger_key; --"])
def test_a_name_is_plain(name: str) -> None:
    with pytest.raises(InvalidParameter):
        make_key(name, free)


@pytest.mark.parametrize("scopes", [[], ["root"], ["infer", "root"], ["INFER"]])
def test_scopes_are_those_there_are(scopes: list[str]) -> None:
    with pytest.raises(InvalidParameter):
        make_key("alice", free, scopes=scopes)
    with pytest.raises(InvalidParameter):
        make_key("alice", lambda name: name == "alice")


def test_salts_part_keys_and_outlive_a_restart() -> None:
    (_, one), (_, other) = make_key("one", free), make_key("other", free)
    assert one.salt(b"secret") == replace(one, name="renamed").salt(b"secret")
    assert len({one.salt(b"secret"), other.salt(b"secret"), one.salt(b"another secret"), b""}) == 4


async def test_a_key_counts_from_when_it_is_kept_until_it_is_removed() -> None:
    shelf = Shelf()
    ring = Keyring(shelf)
    secret, key = make_key("alice", free)
    assert ring.find(digest(secret)) is None and not ring.opens(Scope.INFER)
    await ring.add(key)
    assert ring.find(digest(secret)) is key and ring.named("alice") is key and ring.named(key.id) is key
    assert ring.opens(Scope.INFER) and not ring.opens(Scope.ADMIN) and shelf.keys == {key.id: key}
    await ring.remove(key)
    assert ring.find(digest(secret)) is None and ring.named("alice") is None and not shelf.keys


async def test_what_the_disk_refuses_has_not_happened() -> None:
    shelf = Shelf()
    ring = Keyring(shelf)
    _, key = make_key("alice", free)
    shelf.out = True
    with pytest.raises(KeysUnavailable):
        await ring.add(key)
    assert ring.rows() == []
    shelf.out = False
    await ring.add(key)
    shelf.out = True
    with pytest.raises(KeysUnavailable):
        await ring.remove(key)
    assert ring.find(key.digest) is key, "a removal that may come back after a restart must not look done"


def test_a_key_that_has_expired_opens_nothing() -> None:
    _, key = make_key("alice", free, expires_in_s=60)
    now_s = time.time()
    assert not key.expired(now_s) and key.expired(now_s + 61)
    old = replace(key, expires_s=now_s - 1)
    assert not Keyring(None, [(old, Usage())]).opens(Scope.INFER)


async def test_use_is_counted_and_written_as_totals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxd.keys.keyring.FLUSH_S", 0.0)
    shelf = Shelf()
    ring = Keyring(shelf)
    (_, alice), (_, bob) = make_key("alice", free), make_key("bob", free)
    await ring.add(alice)
    await ring.add(bob)
    for _ in range(3):
        assert ring.admit(alice) == 0.0
        ring.tally(cost(alice, 100, 60, 7))
    shelf.out = True
    await asyncio.sleep(0.01)  # the first writing comes to nothing
    shelf.out = False
    ring.tally(cost(alice, 1, 0, 0))
    while alice.id not in shelf.usages:
        await asyncio.sleep(0.001)
    kept = shelf.usages[alice.id]
    assert (kept.requests, kept.prompt_tokens, kept.cached_tokens, kept.completion_tokens) == (3, 301, 180, 21)
    assert bob.id not in shelf.usages
    ring.tally(cost(bob, 5, 0, 1))
    ring.close()
    assert shelf.usages[bob.id].prompt_tokens == 5, "the end of the process loses nothing"
    assert {key.name: usage.requests for key, usage in ring.rows()} == {"alice": 3, "bob": 0}


def test_nobodys_generation_is_nobodys() -> None:
    ring = Keyring()
    ring.tally(replace(cost(make_key("gone", free)[1], 1, 1, 1), owner=""))
    assert ring.rows() == []


def test_a_key_comes_as_often_as_it_may() -> None:
    _, key = make_key("alice", free, requests_per_minute=3)
    ring = Keyring(None, [(key, Usage())])
    assert [ring.admit(key) for _ in range(3)] == [0.0] * 3
    assert 0 < ring.admit(key) <= WINDOW_S
    ((_, usage),) = ring.rows()
    assert usage.requests == 3


@given(st.integers(1, 5), st.lists(st.floats(0, 30), max_size=40))
def test_no_minute_holds_more_than_it_may(per_minute: int, pauses_s: list[float]) -> None:
    def taken() -> Iterator[float]:
        pace, now_s = Pace(per_minute), 0.0
        for pause_s in pauses_s:
            now_s += pause_s
            wait_s = pace.take(now_s)
            if not wait_s:
                yield now_s
            else:
                assert pace.wait_s(now_s + wait_s + 1e-6) == 0.0, "it says how long"

    times = list(taken())
    for at, begin_s in enumerate(times):
        assert sum(begin_s <= time_s < begin_s + WINDOW_S - 1e-6 for time_s in times[at:]) <= per_minute
