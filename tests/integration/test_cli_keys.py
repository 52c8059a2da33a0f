"""Ctrl-N with libedit, which macOS's Pythons use instead of readline: its own library reads our binding."""

import ctypes.util
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from mlxd.cli.chat_keys import LIBEDIT_BINDING

READER = """
import ctypes, fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
edit = ctypes.CDLL(sys.argv[1])
edit.readline.restype = ctypes.c_char_p
edit.rl_initialize()
edit.rl_parse_and_bind(sys.argv[2].encode())
for _ in range(2):
    print("read", edit.readline(b"> "), flush=True)
"""


def library():
    found = ctypes.util.find_library("edit")
    if found:
        return found
    try:
        return ctypes.CDLL("libedit.so.2")._name
    except OSError:
        return None


@pytest.mark.skipif(library() is None, reason="libedit is not installed")
def test_ctrl_n_throws_the_line_away_and_asks_for_a_new_conversation():
    master, slave = pty.openpty()
    command = [sys.executable, "-c", READER, library(), LIBEDIT_BINDING]
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=os.environ | {"TERM": "xterm"}
    ) as reader:
        os.close(slave)
        try:
            assert "> " in read_until(master, "> ")
            os.write(master, b"half a line\x0e")
            assert "read b'/new'" in read_until(master, "read ", "> ")
            os.write(master, b"two\r")
            assert "read b'two'" in read_until(master, "read ", "\n")
        finally:
            reader.kill()
    os.close(master)


def read_until(master, *texts, seconds=20):
    """What the terminal shows until all `texts` have come, one after the other."""
    shown, end = "", time.monotonic() + seconds
    while time.monotonic() < end:
        if select.select([master], [], [], 0.1)[0]:
            shown += os.read(master, 4096).decode()
        rest = shown
        for text in texts:
            _, found, rest = rest.partition(text)
            if not found:
                break
        else:
            return shown
    raise AssertionError(f"{texts} did not come: {shown!r}")
