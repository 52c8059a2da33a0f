"""What a download shows: a line that grows on a terminal, nothing of it in a log, and every wait in both."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from mlxd.catalog.fetch import Progress, Waiting
from mlxd.cli.download_bar import DownloadBar


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_terminals_and_waits_are_for_all(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("mlxd.cli.download_bar.time", SimpleNamespace(monotonic=iter((50.0, 50.1, 50.15)).__next__))
    bar = DownloadBar()
    for here in (1 << 30, 2 << 30, 4 << 30):
        bar.progress(Progress(here, 4 << 30))
    bar.waiting(Waiting("hub.example answers 503", 7.4))
    said = capsys.readouterr().err
    assert "hub.example answers 503; trying again in 7 s." in said
    assert ("4.00 of 4.00 GiB" in said) is terminal and ("100 %" in said) is terminal
    assert "2.00 of" not in said, "not more often than anybody reads"


def test_nothing_to_fetch_is_all_of_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    DownloadBar().progress(Progress(0, 0))
    assert "0.00 of 0.00 GiB" in capsys.readouterr().err
