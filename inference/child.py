"""A process of our own that answers one order at a time and may be killed: work that nothing else could stop.

It speaks pickle over one inherited socket, with its parent only, and ends when that socket ends.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from inference.errors import Draining


class ChildEnded(Exception):
    """The process ended before it answered: killed because it was `overdue`, else by itself."""

    def __init__(self, *, overdue: bool) -> None:
        super().__init__("overdue" if overdue else "died")
        self.overdue = overdue


class Child:
    """The process as seen from here. It starts with the first order, and again after each that it did not survive.

    `ask` and `end` are for one thread at a time; `pid` and `kill_for_good` are for any.
    """

    def __init__(self, module: str, started: Callable[[], None]) -> None:
        """`module` has a `main` that serves the socket whose number is its argument; `started` hears of each start."""
        # Run as a module (-m) its classes would be those of `__main__`, which this side cannot unpickle.
        self._command = (sys.executable, "-P", "-c", f"from {module} import main; main()")
        self._started = started
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._closed = threading.Event()

    @property
    def pid(self) -> int | None:
        """None while there is no process."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def ask(self, order: object, limit_s: float) -> Any:
        """Blocks until the process answered, died or was killed after `limit_s`, which count from its start on.

        Raises `ChildEnded`, and `Draining` once closed.
        """
        connection = self._connected()
        overdue = threading.Event()
        timer = threading.Timer(limit_s, self._kill, (overdue,))
        timer.start()
        try:
            connection.send(order)
            return connection.recv()
        except Exception as error:  # end of file, reset, or an answer that is none: start afresh
            self.end()
            if self._closed.is_set():
                raise _draining() from error
            raise ChildEnded(overdue=overdue.is_set()) from error
        finally:
            timer.cancel()
            timer.join()  # or it might still kill the process under the next order
            if overdue.is_set():
                self.end()

    def kill_for_good(self) -> None:
        """Whatever runs fails now, and nothing starts again. `end` is called when the asking thread is done."""
        self._closed.set()
        self._kill()

    def end(self) -> None:
        """Leaves nothing behind: no process, no descriptor."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _connected(self) -> Connection:
        if self._closed.is_set():
            raise _draining()
        if self._connection is None or self.pid is None:
            self.end()
            self._connection = self._start()
        if self._closed.is_set():  # meanwhile: who closed may not have seen this process
            self.end()
            raise _draining()
        return self._connection

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [*self._command, str(number)],
                pass_fds=(number,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the daemon; this process ends when its socket does
            )
        self._started()
        return Connection(ours.detach())

    def _kill(self, overdue: threading.Event | None = None) -> None:
        if overdue is not None:
            overdue.set()
        process = self._process
        if process is not None:
            process.kill()


def _draining() -> Draining:
    return Draining("The server is shutting down.")
