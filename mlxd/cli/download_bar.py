"""How a download shows on a terminal: one line with what is here, and a line for each wait."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mlxd.catalog.fetch import Progress, Waiting

GIB = 1 << 30
EVERY_S = 0.2


class DownloadBar:
    """Shows progress where somebody can see it; waits are told anywhere, for they explain why nothing comes."""

    def __init__(self) -> None:
        self._shows = sys.stderr.isatty()
        self._shown_s = 0.0
        self._began: tuple[float, int] | None = None

    def progress(self, now: Progress) -> None:
        at_s = time.monotonic()
        began_s, began_bytes = self._began = self._began or (at_s, now.here_bytes)
        is_over = now.here_bytes >= now.total_bytes
        if self._shows and (is_over or at_s - self._shown_s >= EVERY_S):
            self._shown_s = at_s
            rate = (now.here_bytes - began_bytes) / max(at_s - began_s, 1e-3) / 1e6
            share = f"{100 * now.here_bytes // max(1, now.total_bytes):3d} %"
            text = f"{share}  {now.here_bytes / GIB:.2f} of {now.total_bytes / GIB:.2f} GiB  {rate:.0f} MB/s"
            click.echo(f"\r{text:<60}", nl=is_over, err=True)

    def waiting(self, wait: Waiting) -> None:
        click.echo(f"{chr(10) if self._shows else ''}{wait.cause}; trying again in {wait.wait_s:.0f} s.", err=True)
