"""Logging holds nobody up: no stopped reader, no stalled or full disk, no flood; and it says what it left out."""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import cast
from unittest.mock import Mock

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from mlxd import log, log_outlet
from mlxd.log_outlet import MAX_WAITING, Lane, LogFile, Stream, say, write_whole
from mlxd.log_rate import LineRate


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that takes no byte more, and whose reader has stopped."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    yield reader, writer
    for descriptor in (reader, writer):
        with suppress(OSError):
            os.close(descriptor)


class Stalled:
    """A sink that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.going_on = threading.Event()
        self.taken: list[str] = []

    def write(self, text: str) -> None:
        self.going_on.wait()
        self.taken.append(text)

    def close(self) -> None:
        self.going_on.wait()


# --- lanes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread may get no processor for a second, and then not all is written that waits."""
    monkeypatch.setattr(log_outlet, "FLUSH_S", 60.0)
    monkeypatch.setattr(log, "FLUSH_S", 60.0)


@pytest.mark.usefixtures("patient")
def test_what_is_put_is_written_in_its_order() -> None:
    sink = Stalled()
    sink.going_on.set()
    lane = Lane(sink)
    for number in range(1000):
        lane.put(str(number))
    assert lane.flush(30)
    assert sink.taken == [f"{number}\n" for number in range(1000)]
    lane.put("last")
    lane.close()
    assert sink.taken[-1] == "last\n"


def test_a_stalled_sink_holds_nobody_up_and_what_it_missed_is_told() -> None:
    sink, told = Stalled(), list[int]()
    heard = threading.Event()

    def hear(count: int) -> None:
        told.append(count)
        heard.set()

    lane = Lane(sink, hear)
    excess = 500
    for number in range(2 * MAX_WAITING + excess):  # one of them at least is with the sink, and all may be
        lane.put(str(number))
    assert not lane.flush(0.01)
    sink.going_on.set()
    assert lane.flush(30) and heard.wait(30)
    assert len(sink.taken) + sum(told) == 2 * MAX_WAITING + excess and told[0] >= excess
    lane.close()


@pytest.mark.usefixtures("patient")
def test_memory_is_bounded_by_characters_as_well() -> None:
    sink, told = Stalled(), list[int]()
    lane = Lane(sink, told.append)
    for _ in range(20):
        lane.put("x" * (1 << 20))
    sink.going_on.set()
    assert lane.flush(30)
    lane.close()
    assert len(sink.taken) <= 8 and told


def test_closing_waits_for_no_stalled_sink() -> None:
    lane = Lane(Stalled())
    lane.put("line")
    lane.close()
    lane.put("after the end")


class Failing(Stalled):
    def write(self, text: str) -> None:
        if not self.going_on.is_set():
            raise OSError(28, "No space left on device")
        super().write(text)


def test_without_a_thread_to_be_had_lines_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many threads, or an interpreter that ends: nobody who logs is to fail for it."""
    told: SimpleQueue[int] = SimpleQueue()
    sink = Stalled()
    sink.going_on.set()
    lane, rate = Lane(sink, told.put), LineRate(lambda _, count: told.put(count), lines_per_s=1, clock=lambda: 0)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
        lane.put("lost")
        assert [rate.admits("kind") for _ in range(3)] == [True, False, False]
    lane.put("kept")
    assert told.get(timeout=30) == 1 and sink.taken == ["kept\n"]
    lane.close()


@pytest.mark.usefixtures("patient")
def test_a_full_disk_costs_its_lines_and_no_more() -> None:
    sink, told = Failing(), list[int]()
    lane = Lane(sink, told.append)
    for number in range(3):
        lane.put(str(number))
    assert lane.flush(30) and not told
    sink.going_on.set()
    lane.put("again")
    lane.close()
    assert sink.taken == ["again\n"] and told == [3]


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_full_pipe_holds_nobody_up(full_pipe: tuple[int, int]) -> None:
    reader, writer = full_pipe
    with os.fdopen(writer, "w", closefd=False) as stream:
        lane = Lane(Stream(stream))
        lane.put("waiting")
        say(stream, "said")
        assert not lane.flush(0.05)
        drained = b""
        while not (b"waiting\n" in drained and b"said\n" in drained):
            drained = drained[-100:] + os.read(reader, 65536)
        lane.close()


@pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["none", "none of the system's"])
def test_any_stream_will_do(stream: io.StringIO | None) -> None:
    lane = Lane(Stream(stream))
    lane.put("line")
    assert lane.flush(30)
    assert stream is None or stream.getvalue() == "line\n"
    lane.close()


def test_a_pipe_without_a_reader_loses_lines_and_nothing_else() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        lane = Lane(Stream(stream))
        lane.put("line")
        assert lane.flush(30)
        lane.close()


def test_a_pipe_that_somebody_made_non_blocking_is_waited_for(full_pipe: tuple[int, int]) -> None:
    reader, writer = full_pipe
    os.set_blocking(writer, False)
    text = b"x" * 300_000
    thread = threading.Thread(target=write_whole, args=(writer, text))
    thread.start()
    read = b""
    while read.count(b"x") < len(text):
        read += os.read(reader, 1 << 20)
    thread.join(30)
    assert read.lstrip(b"\0") == text


# --- the file ---------------------------------------------------------------------------------------------------------


@given(lengths=st.lists(st.integers(0, 120), max_size=60), most=st.integers(1, 300), kept=st.integers(1, 4))
def test_files_hold_their_size_and_the_newest_lines_in_order(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], most: int, kept: int
) -> None:
    path = tmp_path_factory.mktemp("logs") / "mlxd.log"
    file = LogFile(path, most_bytes=most, kept=kept)
    lines = [f"{number:03}{'x' * length}\n" for number, length in enumerate(lengths)]
    for line in lines:
        file.write(line)
    file.close()
    files = [path.with_name(f"mlxd.log.{age}") for age in range(kept, 0, -1)] + [path]
    there = [each for each in files if each.exists()]
    assert sorted(there) == sorted(path.parent.iterdir())
    for each in there:
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
        assert each.stat().st_size <= most or each.read_text().count("\n") == 1
    assert "".join(lines).endswith("".join(each.read_text() for each in there))


def test_a_fifo_in_the_place_of_the_file_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mlxd.log", 0o600)
    lane = Lane(LogFile(tmp_path / "mlxd.log", most_bytes=100, kept=1))
    lane.put("line")
    assert lane.flush(30)
    lane.close()


# --- floods -----------------------------------------------------------------------------------------------------------


class Untimed(LineRate):
    """Tells what it left out when it is asked. A timer for each would leave hundreds of threads behind."""

    def _tell_later(self) -> None:
        pass


@given(
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.01, 0.3, 1.0])), max_size=200),
    most=st.integers(1, 5),
)
def test_of_each_kind_so_many_a_second_and_every_other_one_is_counted(
    steps: list[tuple[str, float]], most: int
) -> None:
    now_s, told = 100.0, list[tuple[object, int]]()
    rate = Untimed(lambda kind, count: told.append((kind, count)), lines_per_s=most, clock=lambda: now_s)
    admitted: list[tuple[str, int]] = []
    for kind, pause_s in steps:
        now_s += pause_s
        if rate.admits(kind):
            admitted.append((kind, int(now_s)))
    rate.tell()
    assert all(admitted.count(each) <= most for each in admitted)
    for kind in "abc":
        left_out = sum(count for name, count in told if name == kind)
        assert left_out + sum(name == kind for name, _ in admitted) == sum(name == kind for name, _ in steps)
    rate.tell()
    assert len(told) == len({kind for kind, _ in told})


def test_a_rare_line_stands_out_in_a_flood() -> None:
    rate = Untimed(lambda *_: None, clock=lambda: 1.0)
    assert sum(rate.admits("flood") for _ in range(100_000)) == 10
    assert rate.admits("rare")


@pytest.fixture
def written(tmp_path: Path, patient: None) -> Iterator[Callable[[], list[dict[str, object]]]]:
    """Logging into a file; all its lines so far."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    for old in before:
        root.removeHandler(old)
    log.configure(form="json", directory=tmp_path / "logs", stream=io.StringIO())

    def read() -> list[dict[str, object]]:
        root.handlers[0].flush()
        return [json.loads(line) for line in (tmp_path / "logs" / "mlxd.log").read_text().splitlines()]

    yield read
    for output in root.handlers[:]:
        root.removeHandler(output)
        output.close()
    for old in before:
        root.addHandler(old)
    root.setLevel(level)
    for name in (*log.OURS, *log.SILENCED):
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    logging.raiseExceptions = True
    structlog.reset_defaults()


def test_a_flood_becomes_a_count(
    written: Callable[[], list[dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    outlet = logging.getLogger().handlers[0]
    assert isinstance(outlet, log.Outlet)
    monkeypatch.setattr(outlet._rate, "_clock", lambda: 50.0)  # one long second
    monkeypatch.setattr(outlet._rate, "_tell_later", lambda: None)  # else it may be telling when we ask
    for number in range(1000):
        structlog.get_logger("mlxd.x").error("ours", number=number)
        logging.getLogger("daphne").warning("theirs %s", number)
        log.log_request(method="GET", route="/v1/models", status=401, duration_ms=1.0, error="invalid_api_key")
    for _ in range(100):
        log.log_request(method="POST", route="/v1/chat/completions", status=200, duration_ms=1.0)
    lines = [line for line in written() if line["event"] != "lines_left_out"]
    assert len(lines) == 3 * 10 + 100, "what was answered is not left out"
    outlet._rate.tell()
    counts = Counter[object]()
    for line in written():
        if line["event"] == "lines_left_out":
            counts[line["like"]] += cast(int, line["count"])
    assert counts == {"ours": 990, "theirs %s": 990, "request": 990}
