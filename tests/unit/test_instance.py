"""One daemon on a state directory: the lock, and what others learn of who holds it."""

import fcntl
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mlxd import instance
from mlxd.paths import StateDir, write_private
from mlxd.start_errors import AlreadyRunning

HOLD = (
    "import sys, time; from pathlib import Path; from mlxd import instance; from mlxd.paths import *\n"
    "harden_process()\n"
    "state = StateDir(Path(sys.argv[1]))\n"
    "try:\n"
    "    with instance.claim(state):\n"
    "        instance.publish(state, 'http://127.0.0.1:9')\n"
    "        print('held', flush=True); sys.stdin.read()\n"
    "except instance.AlreadyRunning as error:\n"
    "    print('refused', error.pid, flush=True); sys.exit(2)\n"
)


def start(state):
    command = [sys.executable, "-c", HOLD, str(state.root)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def pauses(monkeypatch):
    """How long the claim has paused each time; nobody waits for that."""
    paused = []
    monkeypatch.setattr(instance, "time", SimpleNamespace(sleep=paused.append))
    return paused


def test_the_second_daemon_is_refused_quickly_and_writes_nothing(state, pauses):
    holder = start(state)
    assert holder.stdout.readline() == "held\n"
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in state.root.iterdir()}
    with pytest.raises(AlreadyRunning) as refused, instance.claim(state):
        pass
    assert 0.1 < sum(pauses) <= 0.2
    assert refused.value.pid == holder.pid and "http://127.0.0.1:9" in refused.value.message
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in state.root.iterdir()} == before
    assert instance.find_running(state) == instance.RunningDaemon(holder.pid, "http://127.0.0.1:9")
    holder.communicate()
    assert instance.find_running(state) is None
    assert not state.daemon.exists()


def test_ten_at_once_leave_exactly_one(state):
    started = [start(state) for _ in range(10)]
    answers = [process.stdout.readline() for process in started]
    assert answers.count("held\n") == 1
    for process in started:
        process.communicate()


def test_a_killed_daemon_leaves_only_hints(state):
    holder = start(state)
    holder.stdout.readline()
    holder.kill()
    holder.communicate()
    assert state.daemon.exists() and instance.find_running(state) is None
    with instance.claim(state):
        assert not state.daemon.exists()  # the dead one's URL is not shown as ours


def test_looking_does_not_keep_a_daemon_from_starting(state):
    with instance.claim(state):
        pass
    looking = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from mlxd import instance; from mlxd.paths import StateDir\n"
            "print('on', flush=True)\nwhile True: instance.find_running(StateDir(Path(sys.argv[1])))",
            str(state.root),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        looking.stdout.readline()
        for _ in range(5):
            with instance.claim(state):
                pass
    finally:
        looking.kill()
        looking.communicate()


def test_a_glance_that_was_stopped_in_the_middle_is_waited_for(state, monkeypatch):
    with instance.claim(state):
        pass
    glance, pauses = os.open(state.lock, os.O_RDONLY), []
    fcntl.flock(glance, fcntl.LOCK_SH)

    def pause(_):
        pauses.append(_)
        if len(pauses) == 3 * instance.TRIES:
            os.close(glance)

    monkeypatch.setattr(instance, "time", SimpleNamespace(sleep=pause))
    with instance.claim(state):
        assert len(pauses) == 3 * instance.TRIES


def test_damaged_hints_are_ignored(state):
    with instance.claim(state):
        state.lock.write_text("not a pid")
        write_private(state.daemon, "[]")
        assert instance.find_running(state) == instance.RunningDaemon(None, "")


def test_finding_creates_nothing(tmp_path):
    assert instance.find_running(StateDir(tmp_path / "absent")) is None
    assert list(tmp_path.iterdir()) == []
