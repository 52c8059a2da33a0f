"""The process that tries grammars out, as seen from here: one order at a time, killed when it is overdue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from inference.child import Child, ChildEnded
from inference.engine.grammar_limits import COMPILE_S
from inference.engine.grammar_trial_process import Model, Trial, Unknown, Verdict
from inference.errors import EngineError, QueueTimeout
from inference.ports import Tokenizer

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
        self._child = Child("inference.engine.grammar_trial_process", lambda: self._count("started"))
        self._stats = TrialStats()

    @property
    def stats(self) -> TrialStats:
        return self._stats

    @property
    def pid(self) -> int | None:
        """None while there is no process."""
        return self._child.pid

    def judge(self, key: str, tokenizer: Callable[[], Tokenizer], lark: str) -> Verdict:
        """Blocks for `limit_s` at most once it is this order's turn and the process knows the model `key`.

        Raises `QueueTimeout` when too many wait, `EngineError` when no process can be had, `Draining` once closed.
        """
        if not self._turn.acquire(timeout=_TURN_S):
            raise QueueTimeout("Too many grammars wait to be compiled.")
        try:
            # A process that is yet to start knows no model, and its start is not the grammar's fault.
            answer = Unknown() if self.pid is None else self._ask(Trial(key, lark), self._limit_s)
            if isinstance(answer, Unknown):
                loaded = self._ask(Model(key, tokenizer()), _READY_S)
                answer = self._ask(Trial(key, lark), self._limit_s) if loaded == Verdict() else loaded
            if isinstance(answer, Unknown):
                raise EngineError("The process that compiles grammars does not keep the model.")
            if answer.nbytes > _LARGE_BYTES:  # what it holds now would hide the size of the next
                self._child.end()
            return answer
        finally:
            self._turn.release()

    def close(self) -> None:
        """Ends the process at once; what waits fails."""
        self._child.kill_for_good()
        with self._turn:
            self._child.end()

    def _ask(self, order: Model | Trial, limit_s: float) -> Verdict | Unknown:
        try:
            answer: Verdict | Unknown = self._child.ask(order, limit_s)
        except ChildEnded as ended:
            self._count("overdue" if ended.overdue else "died")
            if isinstance(order, Model):
                raise EngineError("The process that compiles grammars did not start; send the request again.") from None
            if ended.overdue:
                return Verdict(f"it takes longer than {limit_s:g} s", lasting=False)
            return Verdict("it takes too much memory")
        return answer

    def _count(self, name: str) -> None:
        self._stats = replace(self._stats, **{name: getattr(self._stats, name) + 1})
