"""Repositories of a hub on loopback into a cache: cut off anywhere, lied to, out of room; what is there is whole."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.errors import InferenceError, InvalidModel, ModelNotFound, UnsafeModel
from mlxd.catalog.fetch import DownloadFailed, Progress, Waiting, blobs, fetch, repository
from mlxd.catalog.fetch import Hub as HubClient
from mlxd.catalog.fetch.backoff import LONGEST_ASKED_S, TRIES, Backoff
from mlxd.catalog.fetch.listing import MAX_FILES
from tests.hubs import REVISION, Hub, Reply, entry, serving

WEIGHTS = random.Random(7).randbytes(1_200_000)
FILES = {"config.json": b'{"model_type": "qwen3"}', "model.safetensors": WEIGHTS, "README.md": b"#", "run.py": b"boom"}
WANTED = {"config.json", "model.safetensors"}


@pytest.fixture(scope="module")
def served() -> Iterator[Hub]:
    with serving(FILES) as hub:
        yield hub


@pytest.fixture
def hub(served: Hub) -> Hub:
    """As if new."""
    served.twist = lambda _path, reply: reply
    served.entries = [entry(name, body) for name, body in FILES.items()]
    served.asked.clear()
    return served


class Fetched:
    """One cache, and what it took to fill it."""

    def __init__(self, hub: Hub, folder: Path, token: str | None = None) -> None:
        self.folder = folder
        self.waits: list[Waiting] = []
        self.steps: list[Progress] = []
        self.client = HubClient(hub.url, token, self.waits.append, lambda told: Backoff(told, lambda _s: None))

    def run(self, told: Callable[[Progress], None] | None = None) -> Path:
        return fetch(self.client, "o/tiny", self.folder, told or self.steps.append)

    def refusal(self) -> InferenceError:
        """Nothing that could be taken for a model is left by it."""
        with pytest.raises(InferenceError) as caught:
            self.run()
        assert not (self.folder / "refs").exists() and not (self.folder / "snapshots").exists()
        return caught.value


@pytest.fixture
def fetched(hub: Hub, tmp_path: Path) -> Iterator[Fetched]:
    made = Fetched(hub, tmp_path / "models--o--tiny")
    yield made
    made.client.close()


def is_whole(path: Path) -> bool:
    return {file.name: file.read_bytes() for file in path.iterdir()} == {name: FILES[name] for name in WANTED}


# --- what arrives ---------------------------------------------------------------------------------------------------


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


# --- what is refused ------------------------------------------------------------------------------------------------


def files(*more: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    """The listing with entries besides, or with changes of the weights' own."""
    config, weights = (entry(name, FILES[name]) for name in sorted(WANTED))
    return [config, weights | changes, *more]


OID = "0" * 40
LISTINGS: dict[str, tuple[Any, type[InferenceError]]] = {
    "no list": ({}, DownloadFailed),
    "a list of no files": ([1, 2], DownloadFailed),
    "no weights": ([entry("config.json", b"{}")], InvalidModel),
    "no config": ([entry("model.safetensors", b"")], InvalidModel),
    "pickled weights": ([entry("config.json", b"{}"), entry("pytorch_model.bin", b"")], UnsafeModel),
    "names that differ by case": (files(entry("Config.json", b"{}")), UnsafeModel),
    "names that differ by form": (files(entry("ｃonfig.json", b"{}")), UnsafeModel),
    "a name twice": (files(entry("config.json", b"{ }")), UnsafeModel),
    "no size": (files(size=None, lfs=None), DownloadFailed),
    "a size below nothing": (files(size=-1, lfs=None), DownloadFailed),
    "a size that is none": (files(size=True, lfs=None), DownloadFailed),
    "a size beyond all": (files(size=2**60, lfs=None), DownloadFailed),
    "a digest that leads away": (files(lfs={"oid": "../../../x", "size": 1}), DownloadFailed),
    "no digest": (files(lfs={"size": 1}), DownloadFailed),
    "more room than there is": (files(size=2**43, lfs=None), DownloadFailed),
    "too many files": (files(*({"type": "file", "path": f"{at}.md"} for at in range(MAX_FILES))), InvalidModel),
    "too many directories": (files(*({"type": "directory"} for _ in range(MAX_FILES))), InvalidModel),
}


@pytest.mark.parametrize("kind", LISTINGS)
def test_a_listing_that_cannot_be_is_refused_before_anything_is_fetched(fetched: Fetched, hub: Hub, kind: str) -> None:
    hub.entries, expected = LISTINGS[kind]
    assert type(fetched.refusal()) is expected
    assert hub.fetched() == []


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "sub/evil.json", "/evil.json", "a\\evil.json", "..json", "é.json", "a\0.json", ".json", "x" * 300,
     "evil.py", "evil.bin", "evil.JSON", "-evil.json", "evil.json.", "a b.json"],
)  # fmt: skip
def test_a_name_that_is_no_plain_one_stays_where_it_is(fetched: Fetched, hub: Hub, name: str) -> None:
    hub.entries = files({**entry(name, b"{}"), "path": name})
    assert is_whole(fetched.run())
    assert set(hub.fetched()) == WANTED


def sends(**changes: Any) -> Callable[[str, Reply], Reply]:
    return lambda path, reply: replace(reply, **changes) if path.endswith(".safetensors") else reply


SENDINGS: dict[str, tuple[Callable[[str, Reply], Reply], type[InferenceError]]] = {
    "other bytes": (sends(body=WEIGHTS[::-1]), InvalidModel),
    "more than it lists": (sends(body=WEIGHTS + b"!"), DownloadFailed),
    "no end": (sends(body=WEIGHTS * 2, headers={"Content-Length": ""}), DownloadFailed),
    "less than it lists": (sends(body=WEIGHTS[:9]), DownloadFailed),
    "nothing": (sends(cut=0), DownloadFailed),
    "compressed": (sends(headers={"Content-Encoding": "gzip"}), DownloadFailed),
    "another part": (sends(status=206, headers={"Content-Range": f"bytes 9-10/{len(WEIGHTS)}"}), DownloadFailed),
    "a part of nothing": (sends(status=206), DownloadFailed),
    "no such file": (sends(status=404), ModelNotFound),
    "not for you": (sends(status=403, headers={"X-Error-Code": "GatedRepo"}), ModelNotFound),
    "an address of a file": (sends(status=302, headers={"Location": "file:///etc/passwd"}), DownloadFailed),
    "an address that is none": (sends(status=302, headers={"Location": "http://[x"}), DownloadFailed),
    "itself": (sends(status=302, headers={"Location": "/o/tiny/resolve/x.safetensors"}), DownloadFailed),
    "a fault": (sends(status=500), DownloadFailed),
    "a teapot": (sends(status=418), DownloadFailed),
}


@pytest.mark.parametrize("kind", SENDINGS)
def test_a_file_that_is_not_what_was_listed_never_appears(fetched: Fetched, hub: Hub, kind: str) -> None:
    hub.twist, expected = SENDINGS[kind]
    assert type(fetched.refusal()) is expected
    weights = [file for file in (fetched.folder / "blobs").iterdir() if file.stat().st_size > 100]
    assert not weights


@pytest.mark.parametrize(
    "reply",
    [Reply(b"<html>"), Reply(b"[" * 100_000), Reply(b"[]," * 2_000_000), Reply(b" " * 9_000_000), Reply(b'["a"]'),
     Reply(b'{"sha": "main"}'), Reply(b"{}", headers={"Content-Encoding": "gzip"}), Reply(b"\xff")],
    ids=lambda reply: f"{reply.body[:8]!r}, {reply.headers}",
)  # fmt: skip
@pytest.mark.parametrize("of", ["/revision/", "/tree/"])
def test_an_answer_that_is_none_is_bounded_and_refused(fetched: Fetched, hub: Hub, reply: Reply, of: str) -> None:
    hub.twist = lambda path, sound: reply if of in path else sound
    assert isinstance(fetched.refusal(), DownloadFailed)
    assert not fetched.folder.exists()


def test_pages_without_end_are_not_followed(fetched: Fetched, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxd.catalog.fetch.listing.MAX_PAGES", 20)
    link = {"Link": f'</api/models/o/tiny/tree/{REVISION}?cursor=x>; rel="next"'}
    hub.twist = lambda path, reply: replace(reply, body=b"[]", headers=link) if "/tree/" in path else reply
    assert isinstance(fetched.refusal(), InvalidModel)
    link["Link"] = '<http://127.0.0.1:9/tree>; rel="next"'
    assert "another host" in fetched.refusal().message


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
    real, room = os.write, [500_000]

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
    assert real is os.write and is_whole(fetched.run())
    assert fetched.steps[-1].here_bytes == fetched.steps[-1].total_bytes


# --- a hub that is busy, and who gets the token ---------------------------------------------------------------------


def busy(times: int, status: int = 429, **headers: str) -> Callable[[str, Reply], Reply]:
    left = [times]

    def reply(_path: str, sound: Reply) -> Reply:
        left[0] -= 1
        return Reply(status=status, headers=headers) if left[0] >= 0 else sound

    return reply


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_hub_is_waited_for_as_long_as_it_asks(fetched: Fetched, hub: Hub, status: int) -> None:
    hub.twist = busy(2, status, **{"Retry-After": "7"})
    assert is_whole(fetched.run())
    assert len(fetched.waits) == 2 and all(7 <= wait.wait_s <= 8 for wait in fetched.waits)
    assert f"answers {status}" in fetched.waits[0].cause


def test_patience_has_an_end(fetched: Fetched, hub: Hub) -> None:
    hub.twist = busy(1000)
    assert f"{TRIES} times in a row" in fetched.refusal().message
    waits = [wait.wait_s for wait in fetched.waits]
    assert len(waits) == TRIES - 1 and all(2**at / 2 <= wait <= 2**at for at, wait in enumerate(waits))
    assert len(set(waits)) == len(waits), "nobody comes in step"
    hub.twist = busy(1, **{"Retry-After": str(int(LONGEST_ASKED_S) + 60)})
    assert "come back in 6 minutes" in fetched.refusal().message


def test_a_hub_that_is_gone_is_told_from_one_that_has_nothing(tmp_path: Path, hub: Hub) -> None:
    one = Fetched(hub, tmp_path / "cache")
    one.client.close()
    waits: list[Waiting] = []
    for endpoint in ("http://127.0.0.1:9", "http://nowhere.invalid"):
        gone = HubClient(endpoint, None, waits.append, lambda told: Backoff(told, lambda _s: None))
        with pytest.raises(DownloadFailed, match="cannot be reached"):
            fetch(gone, "o/tiny", tmp_path / "cache")
        gone.close()
    assert len(waits) == 2 * (TRIES - 1) and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "endpoint", ["", "huggingface.co", "ftp://x", "http://", "https://u:p@x", "http://x/?a=b", "a\0b"]
)
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(DownloadFailed, match="hf_endpoint"):
        HubClient(endpoint)


def test_the_token_goes_to_the_hub_and_to_nobody_it_sends_us_to(hub: Hub, tmp_path: Path) -> None:
    with serving(FILES) as elsewhere:

        def sent_on(path: str, reply: Reply) -> Reply:
            return (
                Reply(status=302, headers={"Location": f"{elsewhere.url}{path}?sig=1"})
                if "/resolve/" in path
                else reply
            )

        hub.twist = sent_on
        one = Fetched(hub, tmp_path / "cache", token="hf_" + "t" * 20)
        assert is_whole(one.run())
        one.client.close()
        assert all(asked.headers["authorization"] == "Bearer hf_" + "t" * 20 for asked in hub.asked)
        assert elsewhere.fetched() and all("authorization" not in asked.headers for asked in elsewhere.asked)


def test_the_token_is_never_sent_in_the_clear_to_another_machine() -> None:
    for endpoint, sent in (("http://mirror.example", False), ("https://mirror.example/hf", True)):
        client = HubClient(endpoint, "secret")
        assert ("Authorization" in client._own_headers(client.url("/api/x"))) is sent
        client.close()
