"""What is on the disk is found after a move, a swap of models and a change of mode, and not where it must not be."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from inference.cache.reuse import ReuseMode
from inference.engine import block_file
from inference.params import CacheScope
from tests.engine.disk_process import SOON_S, next_turn, question, text
from tests.engine.warm_rows import CLOSE, ask

SECRET = b"of one key alone, 32 bytes of it"


@pytest.mark.parametrize("kind", ["dense", "hybrid"])
def test_a_moved_directory_is_as_good_as_before(start: Callable, kind: str) -> None:
    before = start(kind)
    first = before.ask(question(kind, "one", text(700)))
    before.terminate()
    elsewhere = before.directory.rename(before.directory.with_name("moved"))
    after = start(kind, directory=elsewhere)
    turn = question(kind, "two", next_turn(first))
    second = after.ask(turn)
    assert second.computed <= 25 and second.gap(after.cold(turn)) < CLOSE
    after.terminate()


def test_another_model_in_between_takes_nothing_away(start: Callable) -> None:
    before = start("dense")
    first = before.ask(question("dense", "one", text(700)))
    before.terminate()
    other = start("hybrid", fingerprint="another model")
    beside = question("hybrid", "beside", next_turn(first))
    answer = other.ask(beside)
    assert answer.computed == len(beside.prompt) and answer.gap(other.cold(beside)) < CLOSE
    other.terminate()
    after = start("dense")
    turn = question("dense", "two", next_turn(first))
    second = after.ask(turn)
    assert second.computed <= 25 and second.gap(after.cold(turn)) < CLOSE
    assert after.dropped() == {}
    after.terminate()


@pytest.mark.parametrize("kind", ["dense", "hybrid"])
def test_files_of_another_version_are_computed_again(
    start: Callable, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    before = start(kind)
    first = before.ask(question(kind, "one", text(700)))
    before.terminate()
    monkeypatch.setattr(block_file, "FORMAT", "mlxd-kv-2")
    after = start(kind)
    turn = question(kind, "two", next_turn(first))
    second = after.ask(turn)
    assert second.computed == len(turn.prompt) and second.gap(after.cold(turn)) < CLOSE
    assert set(after.dropped()) == {"stale"}
    third = after.ask(question(kind, "three", next_turn(second)))
    assert third.computed <= 25
    after.terminate()


@pytest.mark.parametrize("kind", ["dense", "hybrid"])
def test_bitwise_reuse_is_bitwise_after_a_restart_too(start: Callable, kind: str) -> None:
    """Blocks of an answer come from decode and are not taken; computed in prefill, they take their places."""
    before = start(kind, mode=ReuseMode.BITWISE)
    first = before.ask(question(kind, "one", text(700), tokens=100))
    before.terminate()
    ids = next_turn(first, length=300)
    for again in range(2):
        after = start(kind, mode=ReuseMode.BITWISE)
        turn = question(kind, f"turn {again}", ids)
        answer = after.ask(turn)
        assert answer.gap(after.cold(turn)) == 0.0
        reused = len(ids) - answer.computed
        assert reused <= (len(ids) - 1) // 256 * 256
        if kind == "dense":
            assert reused == (1024 if again else 512), "the block that decode has made, and then the same by prefill"
        after.kill()


def test_nothing_on_the_disk_tells_a_salt_and_no_file_serves_two(start: Callable) -> None:
    """All that is there of it is in a hash, with the model's fingerprint."""
    process = start("dense")
    scopes = [CacheScope(salt=salt, template="chat") for salt in (SECRET, SECRET[::-1], b"")]
    for number, scope in enumerate(scopes):
        answer = process.ask(ask(f"job {number}", text(700), scope=scope))
        assert answer.computed == 700, "what another salt computed is not read"
        assert process.disk.settle(SOON_S)
    process.terminate()
    files = [path for path in process.directory.rglob("*") if path.is_file()]
    blocks = [path for path in files if path.suffix == ".kv"]
    assert len({path.parents[1].name for path in blocks}) == 3, "a tree for each"
    assert len({path.name for path in blocks}) == len(blocks) == 9
    told = b"".join(bytes(path) + path.read_bytes() for path in files)
    for spelled in (SECRET, SECRET[:12], SECRET.hex().encode(), base64.b64encode(SECRET)[:-4]):
        assert spelled not in told and spelled[::-1] not in told
