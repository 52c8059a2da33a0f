"""A session that is forgotten: nothing of it is left on the disk of a real daemon, and nothing of another is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.e2e.daemon import ServedDaemon
from tests.e2e.test_ledger import admin, credentials
from tests.e2e.test_restart import SYSTEM
from tests.e2e.test_saved_conversations import post, stats, talk

WITHIN_S = 60.0
"""Sixty times what it may take on a machine that does nothing else."""


def begun(secret: str) -> list[dict[str, str]]:
    """Two conversations share their instructions, and are longer than these."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{secret}. " * 300}]


def holding(folder: Path, word: str) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and word.encode() in file.read_bytes()]


def files(state: Path) -> dict[str, int]:
    """What is stored of prefixes, by path."""
    return {str(file): file.stat().st_size for file in (state / "prefixes").rglob("*") if file.is_file()}


def session_id(served: ServedDaemon, known: set[str]) -> str:
    return next(one["id"] for one in admin(served, "/api/sessions")["sessions"] if one["id"] not in known)


def test_a_forgotten_session_leaves_nothing_on_the_disk(serve: Callable[..., ServedDaemon], tmp_path: Path) -> None:
    state = tmp_path / "state0"
    with serve() as served:
        served.wait_ready()
        other, doomed = begun("pelican"), begun("wolverine")
        talk(served, other, "And?", "the other")
        kept = {session_id(served, set())}
        before = set(files(state))
        talk(served, doomed, "And?", "the doomed")
        talk(served, doomed, "And?", "the doomed")
        name = session_id(served, kept)
        saved = post(served, "save", {"conversation_id": "the doomed", "title": "wolverine"}).raise_for_status().json()
        assert saved["blocks"] > 2 and holding(state, "wolverine"), "or there is nothing to forget"
        assert len(files(state)) > len(before)

        began_s = time.monotonic()
        gone = httpx.delete(f"{served.url}/api/sessions/{name}", headers=credentials(served), timeout=60).json()
        assert time.monotonic() - began_s < WITHIN_S
        assert gone["saved"] and gone["blocks"] > 2 and gone["answers"] == 2 and gone["rows"] == 3

        until_s = time.monotonic() + WITHIN_S
        while set(files(state)) - before and time.monotonic() < until_s:  # the disk's thread has its own pace
            time.sleep(0.05)
        assert not set(files(state)) - before
        assert not holding(state, "wolverine")
        assert stats(served, X_Conv_Id="the doomed")["data"] == []
        prompt, cached = talk(served, other, "", "the other")
        assert cached >= 0.9 * prompt, "what is shared stays with who else stands on it"
