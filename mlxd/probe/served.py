"""A server that the probe ends and starts again: one that it starts itself, or one that somebody else looks after."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Final
from urllib.parse import urlsplit

import httpx

from mlxd.probe.client import ProbeFailed

START_S: Final = 600.0
END_S: Final = 120.0
POLL_S: Final = 0.05
PORT: Final = "{port}"
"""Stands in a command, or an address, for a port that is free."""
_TAIL_BYTES: Final = 4096


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass(slots=True)
class Served:
    """`command` starts a server that answers at `base_url`; it must be the server itself, not what starts one.

    With `pid` one runs already; without a `command` whoever looks after it is trusted to start it again. Use it as a
    context: what was started here is ended with it.
    """

    base_url: str
    command: Sequence[str] = ()
    pid: int = 0
    environment: Mapping[str, str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    start_s: float = START_S
    _process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] = field(default_factory=tempfile.TemporaryFile)

    def __enter__(self) -> Served:
        try:
            if not self.pid:
                self._start()
            self._wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(END_S)
        self._log.close()

    def again(self, number: signal.Signals) -> float:
        """Ends it with a signal and waits until it answers again; how many seconds its start took.

        Raises `ProbeFailed` where it does not end, or does not come back.
        """
        self._end(number)
        began_s = time.monotonic()
        if self.command:
            self._start()
        self._wait_ready()
        return time.monotonic() - began_s

    def _start(self) -> None:
        self.pid = 0
        try:
            self._process = subprocess.Popen(  # noqa: S603  the user's own command
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env=None if self.environment is None else dict(self.environment),
            )
        except OSError as error:
            raise ProbeFailed(f"{self.command[0]} cannot be started: {error.strerror}.") from None

    def _end(self, number: signal.Signals) -> None:
        pid = self._process.pid if self._process is not None else self.pid
        try:
            os.kill(pid, number)
        except OSError as error:
            raise ProbeFailed(f"Process {pid} cannot be ended: {error.strerror}.") from None
        until_s = time.monotonic() + END_S
        while self._is_there(pid):
            if time.monotonic() > until_s:
                raise ProbeFailed(f"Process {pid} has not ended {END_S:.0f} s after {number.name}.")
            time.sleep(POLL_S)

    def _is_there(self, pid: int) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True

    def _wait_ready(self) -> None:
        """Until it lists its models; where it says in the manner of mlxd that it is loading them, until it has."""
        until_s = time.monotonic() + self.start_s
        parts = urlsplit(self.base_url)
        health = f"{parts.scheme}://{parts.netloc}/health/ready"
        with httpx.Client(headers=dict(self.headers), timeout=5.0, trust_env=False) as client:
            while time.monotonic() < until_s:
                if self._process is not None and self._process.poll() is not None:
                    raise ProbeFailed(f"The server has ended with code {self._process.returncode}: {self._said()}")
                try:
                    listed = client.get(f"{self.base_url}/models").status_code
                    if listed < 500 and client.get(health).status_code != httpx.codes.SERVICE_UNAVAILABLE:
                        return
                except httpx.HTTPError:
                    pass
                time.sleep(POLL_S)
        raise ProbeFailed(f"{self.base_url} does not answer {self.start_s:.0f} s after its start.")

    def _said(self) -> str:
        """Its last words."""
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, end - _TAIL_BYTES))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing."
