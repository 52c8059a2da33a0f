"""Repositories of a hub on loopback into a cache, cut off anywhere: what is there is whole."""

from __future__ import annotations

import fcntl
import json
import re
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxd.catalog.fetch import DownloadFailed, Progress, blobs, repository
from tests.hubs import REVISION, Hub, Reply
from tests.integration.fetched import FILES, WANTED, WEIGHTS, Fetched, is_whole


def test_what_a_model_needs_is_fetched_at_a_commit_and_nothing_else(fetched: Fetched, hub: Hub) -> None:
    path = fetched.run()
    assert path == fetched.folder / "snapshots" / REVISION and is_whole(path)
    assert (fetched.folder / "refs" / "main").read_text() == REVISION
    assert set(hub.fetched()) == WANTED
    assert all(REVISION in one.path for one in hub.asked[1:]), "the name of a branch is asked for once"
    assert fetched.steps[-1] == Progress(len(WEIGHTS) + len(FILES["config.json"]), fetched.steps[-1].total_bytes)
    assert {one.name for one in fetched.folder.iterdir()} == {"blobs", "refs", "snapshots"}
    assert not fetched.waits and all("authorization" not in one.headers for one in hub.asked)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, len(WEIGHTS)), max_size=4), ranges=st.booleans())
def test_wherever_it_is_cut_the_file_comes_whole(
    hub: Hub, tmp_path_factory: pytest.TempPathFactory, cuts: list[int], ranges: bool
) -> None:
    """From where it was cut, if the hub can; a byte that has come is not asked for again."""
    left = list(cuts)

    def cut(path: str, reply: Reply) -> Reply:
        if not path.endswith(".safetensors") or not left:
            return reply
        return replace(reply if ranges else Reply(WEIGHTS), cut=left.pop())

    hub.twist = cut
    hub.asked.clear()
    one = Fetched(hub, tmp_path_factory.mktemp("cut"))
    assert is_whole(one.run())
    begun = [int(asked.headers.get("range", "bytes=0-")[6:-1]) for asked in hub.asked if "safetensors" in asked.path]
    if ranges:
        at = [0]
        for amount in reversed(cuts):
            at.append(min(len(WEIGHTS), at[-1] + amount))
        assert begun == [begin for begin in at if begin < len(WEIGHTS)][: len(begun)]
    assert len(begun) <= len(cuts) + 1
    one.client.close()


class Killed(BaseException):
    """Where a process ended."""


@pytest.mark.parametrize("percent", [0, 1, 35, 70, 99])
def test_a_later_process_goes_on_where_one_was_killed(fetched: Fetched, hub: Hub, percent: int) -> None:
    def killed(now: Progress) -> None:
        if now.here_bytes * 100 >= now.total_bytes * percent:
            raise Killed

    with pytest.raises(Killed):
        fetched.run(killed)
    assert not (fetched.folder / "snapshots").exists() and not (fetched.folder / "refs").exists()
    kept = sum(file.stat().st_size for file in (fetched.folder / "blobs").glob("*.mlxd-part"))
    assert kept >= len(WEIGHTS) * percent // 100 - len(FILES["config.json"])
    hub.asked.clear()
    assert is_whole(fetched.run())
    assert fetched.steps[0].here_bytes >= kept
    asked = [one.headers.get("range") for one in hub.asked if one.path.endswith(".safetensors")]
    assert asked == ([] if kept == len(WEIGHTS) else [f"bytes={kept}-" if kept else None])
    assert not list(fetched.folder.rglob("*mlxd*"))


@pytest.mark.parametrize("content", [b"x" * 1000, b"x" * (len(WEIGHTS) + 9), b"x" * len(WEIGHTS)])
def test_a_part_that_was_spoiled_is_thrown_away(fetched: Fetched, hub: Hub, content: bytes) -> None:
    (fetched.folder / "blobs").mkdir(parents=True)
    digest = hub.entries[1]["lfs"]["oid"]
    (fetched.folder / "blobs" / f"{digest}.mlxd-part").write_bytes(content)
    assert is_whole(fetched.run())


def test_a_blob_that_was_spoiled_is_fetched_again_and_a_sound_one_is_not(fetched: Fetched, hub: Hub) -> None:
    path = fetched.run()
    hub.asked.clear()
    (path / "config.json").write_bytes(b"X" * len(FILES["config.json"]))
    assert is_whole(fetched.run())
    assert hub.fetched() == ["config.json"]


def test_what_another_program_has_begun_is_completed(fetched: Fetched) -> None:
    snapshot = fetched.folder / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/nowhere")
    assert is_whole(fetched.run())


def test_nothing_is_written_through_a_link(fetched: Fetched, hub: Hub, tmp_path: Path) -> None:
    (fetched.folder / "blobs").mkdir(parents=True)
    (tmp_path / "mine").write_bytes(WEIGHTS[:7])
    digest = hub.entries[1]["lfs"]["oid"]
    for name in (digest, f"{digest}.mlxd-part"):
        (fetched.folder / "blobs" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=r"symbolic|links"):
        fetched.run()
    (fetched.folder / "blobs" / f"{digest}.mlxd-part").unlink()
    assert is_whole(fetched.run())
    assert (tmp_path / "mine").read_bytes() == WEIGHTS[:7]


def test_two_processes_do_not_write_one_file(fetched: Fetched, hub: Hub) -> None:
    other = Fetched(hub, fetched.folder)

    def meanwhile(now: Progress) -> None:
        if 0 < now.here_bytes < now.total_bytes and other.folder:
            with pytest.raises(DownloadFailed, match="Another process"):
                other.run()

    assert is_whole(fetched.run(meanwhile))
    other.client.close()


def test_two_processes_that_end_together_leave_each_other_alone(
    fetched: Fetched, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes while the first publishes, as far as it gets; what a third was killed over goes."""
    other, came, ended = Fetched(hub, fetched.folder), threading.Event(), list[Path]()
    (fetched.folder / "snapshots" / ".mlxd-killed").mkdir(parents=True)

    def meanwhile() -> None:
        try:
            ended.append(other.run())
        finally:
            came.set()

    thread = threading.Thread(target=meanwhile)
    made, lock = tempfile.mkdtemp, fcntl.flock

    def begun(**where: Any) -> str:
        path = str(made(**where))
        if threading.current_thread() is not thread:
            thread.start()
            assert came.wait(60)
        return path

    def locked(descriptor: int, operation: int) -> None:
        if threading.current_thread() is thread and operation == fcntl.LOCK_EX:
            came.set()
        lock(descriptor, operation)

    monkeypatch.setattr(tempfile, "mkdtemp", begun)
    monkeypatch.setattr(fcntl, "flock", locked)
    path = fetched.run()
    thread.join(60)
    assert ended == [path] and is_whole(path)
    assert not list(fetched.folder.rglob(".mlxd-*"))
    other.client.close()


def test_the_pages_of_a_listing_are_one(fetched: Fetched, hub: Hub) -> None:
    link = {"Link": f'</api/models/o/tiny/tree/{REVISION}?cursor=x>; rel="next"'}
    parts = {False: (hub.entries[:1], link), True: (hub.entries[1:], {})}

    def paged(path: str, reply: Reply) -> Reply:
        listed, headers = parts["cursor=x" in path]
        return replace(reply, body=json.dumps(listed).encode(), headers=headers) if "/tree/" in path else reply

    hub.twist = paged
    assert is_whole(fetched.run())


def test_a_disk_without_room_is_known_before_and_survived_within(
    fetched: Fetched, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "RESERVE_BYTES", 2**62)
    assert re.search(r"GiB are to come and .* GiB are free", fetched.refusal().message)
    assert hub.fetched() == []
    monkeypatch.undo()
    room = [500_000]

    class Full:
        """A file on a disk that fills up."""

        def __init__(self, part: Any) -> None:
            self._part = part

        def write(self, chunk: memoryview) -> int:
            if room[0] <= 0:
                raise OSError(28, "No space left on device")
            written = int(self._part.write(chunk[: room[0]]))
            room[0] -= written
            return written

    write = blobs._write
    monkeypatch.setattr(blobs, "_write", lambda part, chunk: write(Full(part), chunk))  # type: ignore[arg-type]
    assert "disk is full" in fetched.refusal().message
    monkeypatch.undo()
    assert is_whole(fetched.run())
    assert fetched.steps[-1].here_bytes == fetched.steps[-1].total_bytes
