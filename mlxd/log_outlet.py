"""Where log lines go: each place has a queue and a thread of its own, so that nobody who logs waits for it.

A reader that has stopped fills a pipe, a terminal can be held with Ctrl-S, and a disk can stall; a line that finds no
room then is dropped and counted. What is written goes to the descriptor itself: a thread that hung in a buffered stream
would hold that stream's lock while the process ends.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Final, Protocol, TextIO

MAX_WAITING: Final = 10_000
MAX_WAITING_CHARS: Final = 4 << 20
FLUSH_S: Final = 1.0


class Sink(Protocol):
    """Takes text, and may block for as long as it likes. Raises `OSError` or `ValueError` where it cannot take it."""

    def write(self, text: str) -> None: ...

    def close(self) -> None: ...


class Lane:
    """The queue before a sink. All but `close` is for any thread, and nothing blocks longer than it says."""

    def __init__(self, sink: Sink, told: Callable[[int], None] = lambda _: None) -> None:
        """`told` hears how many lines were dropped, once lines are written again."""
        self._sink = sink
        self._told = told
        self._wake = threading.Condition()
        self._lines: deque[str] = deque()
        self._chars = 0
        self._dropped = 0
        self._writing = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def put(self, line: str) -> None:
        """Takes a line without its end, or drops it. Never blocks."""
        with self._wake:
            is_full = len(self._lines) >= MAX_WAITING or self._chars + len(line) > MAX_WAITING_CHARS
            if self._closing or is_full or not self._runs():
                self._dropped += 1
                return
            self._lines.append(line)
            self._chars += len(line)
            self._wake.notify_all()

    def _runs(self) -> bool:
        """Starts the thread at the first line. False: there are too many, or the interpreter ends."""
        if self._thread.ident is None:
            with suppress(RuntimeError):
                self._thread.start()
        return self._thread.ident is not None

    def flush(self, limit_s: float = FLUSH_S) -> bool:
        """Waits until all that was put is written. False: the sink did not take it in time."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._lines and not self._writing, limit_s)

    def close(self) -> None:
        """Writes what waits, as far as the sink takes it within the limit."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._thread.ident is not None:
            self._thread.join(FLUSH_S)
        if not self._thread.is_alive():
            self._sink.close()

    def _run(self) -> None:
        while lines := self._next():
            failed = sum(not self._write(line) for line in lines)
            with self._wake:
                self._writing = False
                self._dropped += failed
                dropped = 0 if failed else self._dropped
                self._dropped -= dropped
                self._wake.notify_all()
            if dropped:
                self._told(dropped)

    def _next(self) -> list[str]:
        """All that waits; nothing at the end."""
        with self._wake:
            self._wake.wait_for(lambda: self._lines or self._closing)
            lines = list(self._lines)
            self._lines.clear()
            self._chars, self._writing = 0, bool(lines)
            return lines

    def _write(self, line: str) -> bool:
        try:
            self._sink.write(f"{line}\n")
        except (OSError, ValueError):  # a full disk, a closed pipe
            return False
        return True


class Stream:
    """A stream of the process, past its buffer where it has a descriptor. It is not closed."""

    def __init__(self, stream: TextIO | None) -> None:
        """None: the process was started without it."""
        self._stream = stream

    def write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError, AttributeError):  # it is none of the system's
            self._stream.write(text)
            self._stream.flush()
            return
        write_whole(descriptor, text.encode(errors="backslashreplace"))

    def close(self) -> None:
        pass


class LogFile:
    """A log file that only we can read. It is moved aside at its size, so that holds without any other process."""

    def __init__(self, path: Path, *, most_bytes: int, kept: int) -> None:
        """`kept` older files stand beside it: `<path>.1` is the newest of them. Its directory is made."""
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._path = path
        self._most_bytes = most_bytes
        self._kept = kept
        self._descriptor = -1
        self._size = 0
        self._moved = False

    def write(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        if self._moved:
            self._moved = False
            self.close()
        if self._descriptor < 0:
            self._open()
        if self._size and self._size + len(data) > self._most_bytes:
            self.close()
            self._shift()
            self._open()
        write_whole(self._descriptor, data)
        self._size += len(data)

    def reopen(self) -> None:
        """The next line goes to a file of this name that is opened anew. From any thread; never waits."""
        self._moved = True

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def _shift(self) -> None:
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{age}") for age in range(1, self._kept + 1))]
        for newer, older in reversed(list(pairwise(names))):
            with suppress(FileNotFoundError):
                newer.replace(older)


def write_whole(descriptor: int, data: bytes) -> None:
    """Writes all of it, however small the pieces; blocks meanwhile, where the descriptor does not as well."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:  # whoever shares the pipe with us made it so
            select.select([], [descriptor], [])


def say(stream: TextIO | None, text: str) -> None:
    """Prints a line for whoever started us, and never waits for them."""

    def write() -> None:
        with suppress(OSError, ValueError):
            Stream(stream).write(f"{text}\n")

    threading.Thread(target=write, name="say", daemon=True).start()
