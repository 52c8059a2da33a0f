"""One daemon per state directory: a lock decides, the pid and the URL beside it are hints for people and commands."""

from __future__ import annotations

import errno
import fcntl
import hmac
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from mlxd.paths import StateDir, cure_of, read_private, write_private
from mlxd.start_errors import AlreadyRunning, UnsafeStateDir

CHALLENGE = re.compile(r"[0-9a-f]{64}")
TRIES, PAUSE_S = 10, 0.02
GLANCES = 500
"""A daemon holds the lock for good. Another command's glance lasts microseconds, but it may be stopped in the middle:
on a busy machine 0.1 s were seen, and such a machine's daemon is to start as well."""


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """A daemon that holds the lock. `url` is "" until it listens; `pid` is None if its file could not be read."""

    pid: int | None
    url: str


@contextmanager
def claim(state: StateDir) -> Iterator[None]:
    """Holds the state directory for this process. Raises `AlreadyRunning` once a daemon was seen to hold it for 0.2 s;
    writes nothing then.

    The lock goes with the process, however it ends. A child made by fork alone would keep it: spawn instead.
    """
    descriptor = _open_lock(state, os.O_RDWR | os.O_CREAT)
    try:
        if not _take(descriptor):
            raise _already_running(state)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        withdraw(state)  # left behind by one that was killed
        yield
        withdraw(state)
    finally:
        os.close(descriptor)


def publish(state: StateDir, url: str) -> None:
    """Says where the daemon of this process listens. Call it once the port answers."""
    write_private(state.daemon, json.dumps({"pid": os.getpid(), "url": url}))


def withdraw(state: StateDir) -> None:
    """Takes back what `publish` said; call it when the listener closes."""
    state.daemon.unlink(missing_ok=True)


def find_running(state: StateDir) -> RunningDaemon | None:
    """The daemon of a state directory, None where none runs. Creates nothing."""
    try:
        descriptor = _open_lock(state, os.O_RDONLY)
    except (UnsafeStateDir, FileNotFoundError):
        return None
    try:
        if _try_lock(descriptor, fcntl.LOCK_SH):  # shared: two commands that look do not see each other
            return None
    finally:
        os.close(descriptor)
    return RunningDaemon(_pid(state), _published_url(state))


def proof(secret: bytes, challenge: str) -> str:
    """What the daemon answers to a challenge: a command that is about to send it a token asks first."""
    return hmac.new(secret, b"mlxd identity\0" + challenge.encode(), "sha256").hexdigest()


def _open_lock(state: StateDir, flags: int) -> int:
    try:
        return os.open(state.lock, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnsafeStateDir(
            f"{state.lock} cannot be opened: {error.strerror}.", cure=cure_of(error, f"Remove it: rm {state.lock}")
        ) from error


def _take(descriptor: int) -> bool:
    """Whether the lock is ours. Who glances shares it, so that we could share it too, and is waited for."""
    daemons = 0
    for _ in range(GLANCES):
        if _try_lock(descriptor, fcntl.LOCK_EX):
            return True
        daemons += not _try_lock(descriptor, fcntl.LOCK_SH)
        if daemons >= TRIES:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(PAUSE_S)
    return False


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise UnsafeStateDir(
            f"This disk cannot lock files: {error.strerror}.", cure="Choose a local directory with --state-dir."
        ) from error
    return True


def _already_running(state: StateDir) -> AlreadyRunning:
    pid, url = _pid(state), _published_url(state)
    who = f"process {pid}" if pid else "another process"
    where = f" at {url}" if url else ""
    return AlreadyRunning(
        f"mlxd already runs on {state.root}: {who}{where}.",
        cure=f"Use that one, stop it{f' (kill {pid})' if pid else ''}, or choose another --state-dir and --port.",
        pid=pid,
    )


def _pid(state: StateDir) -> int | None:
    with suppress(UnsafeStateDir, ValueError):
        return int((read_private(state.lock) or "").strip())
    return None


def _published_url(state: StateDir) -> str:
    with suppress(UnsafeStateDir, ValueError, AttributeError):
        url = json.loads(read_private(state.daemon) or "{}").get("url")
        return url if isinstance(url, str) else ""
    return ""
