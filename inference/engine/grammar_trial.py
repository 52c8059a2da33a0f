"""The process that tries grammars out, as seen from here: one order at a time, killed when it is overdue."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from inference.engine.grammar_limits import COMPILE_S
from inference.engine.grammar_trial_process import Model, Trial, Unknown, Verdict
from inference.errors import Draining, EngineError, QueueTimeout
from inference.ports import Tokenizer

_CODE = "from inference.engine.grammar_trial_process import main; main()"
_COMMAND = (sys.executable, "-P", "-c", _CODE)
_READY_S = 60.0
"""To start the process and read a vocabulary of 150,000 ids (2 s where measured)."""

_LARGE_BYTES = 16 << 20
_TURN_S = 20.0
"""How long an order waits for those before it. Ten bombs in a row take as long."""


@dataclass(frozen=True, slots=True)
class TrialStats:
    """Counts since the start: processes `started`, killed as `overdue`, `died` by themselves."""

    started: int = 0
    overdue: int = 0
    died: int = 0


class TrialProcess:
    """Thread-safe. The process starts with the first order and again after each that it did not survive."""

    def __init__(self, *, limit_s: float = COMPILE_S) -> None:
        self._limit_s = limit_s
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._closed = False
        self._stats = TrialStats()

    @property
    def stats(self) -> TrialStats:
        return self._stats

    @property
    def pid(self) -> int | None:
        """None while there is no process."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def judge(self, key: str, tokenizer: Callable[[], Tokenizer], lark: str) -> Verdict:
        """Blocks for `limit_s` at most once it is this order's turn and the process knows the model `key`.

        Raises `QueueTimeout` when too many wait, `EngineError` when no process can be had, `Draining` once closed.
        """
        if not self._turn.acquire(timeout=_TURN_S):
            raise QueueTimeout("Too many grammars wait to be compiled.")
        try:
            answer = self._ask(Trial(key, lark), self._limit_s)
            if isinstance(answer, Unknown):
                loaded = self._ask(Model(key, tokenizer()), _READY_S)
                answer = self._ask(Trial(key, lark), self._limit_s) if loaded == Verdict() else loaded
            if isinstance(answer, Unknown):
                raise EngineError("The process that compiles grammars does not keep the model.")
            if answer.nbytes > _LARGE_BYTES:  # what it holds now would hide the size of the next
                self._end()
            return answer
        finally:
            self._turn.release()

    def close(self) -> None:
        """Ends the process at once; what waits fails."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
        with self._turn:
            self._end()

    def _ask(self, order: Model | Trial, limit_s: float) -> Verdict | Unknown:
        connection = self._connected()
        try:
            connection.send(order)
            answered = connection.poll(limit_s)
            answer: Verdict | Unknown | None = connection.recv() if answered else None
        except (EOFError, OSError):
            answer, answered = None, True
        if answer is not None:
            return answer
        self._end()
        if self._closed:
            raise _draining()
        self._count("died" if answered else "overdue")
        if isinstance(order, Model):
            raise EngineError("The process that compiles grammars did not start; send the request again.")
        if answered:
            return Verdict("it takes too much memory")
        return Verdict(f"it takes longer than {limit_s:g} s", lasting=False)

    def _connected(self) -> Connection:
        if self._closed:
            raise _draining()
        if self._connection is None or self.pid is None:
            self._end()
            self._connection = self._start()
        return self._connection

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [*_COMMAND, str(number)],
                pass_fds=(number,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the daemon; this process ends when its socket does
            )
        self._count("started")
        return Connection(ours.detach())

    def _end(self) -> None:
        """Leaves nothing behind: no process, no descriptor."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _count(self, name: str) -> None:
        self._stats = replace(self._stats, **{name: getattr(self._stats, name) + 1})


def _draining() -> Draining:
    return Draining("The server is shutting down.")
