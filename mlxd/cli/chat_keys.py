"""Reads a line at a prompt; Ctrl-N starts the conversation anew."""

from __future__ import annotations

import sys

RESET = "/new"
GNU_BINDING = rf'"\C-n": "\C-a\C-k{RESET}\C-m"'
LIBEDIT_BINDING = rf'bind -s "^N" "^A^K{RESET}^M"'


def bind_reset_key() -> None:
    """Makes Ctrl-N type `/new` and Enter, in readline or libedit; without either, `/new` can still be typed."""
    try:
        import readline
    except ImportError:
        return
    is_libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind(LIBEDIT_BINDING if is_libedit else GNU_BINDING)


def read_line(prompt: str) -> str:
    """One line from a person or a pipe. Raises EOFError at the end and KeyboardInterrupt at Ctrl-C."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        return input(prompt)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")
