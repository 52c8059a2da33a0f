"""A daemon whose engine follows a script, asked as a client does, and waited for."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.daemon import ServedDaemon

SCRIPTED = (sys.executable, "-P", "-c", "import sys; sys.path.insert(0, sys.argv.pop(1)); "
            "from tests.e2e.scripted_daemon import main; main()", str(Path(__file__).parents[2]))  # fmt: skip
Serve = Callable[..., ServedDaemon]


def body(content: str = "hello", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "stream": True, **more}


@contextmanager
def streaming(served: ServedDaemon, content: str = "hello", **more: Any) -> Iterator[httpx.Response]:
    with (
        httpx.Client(timeout=120) as http,
        http.stream("POST", f"{served.url}/v1/chat/completions", json=body(content, **more)) as response,
    ):
        yield response


def events(response: httpx.Response) -> list[str]:
    """Every data line until the end of the stream, however it ends."""
    lines: list[str] = []
    try:
        lines.extend(line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: "))
    except httpx.HTTPError as error:
        lines.append(f"connection: {type(error).__name__}")
    return lines


def status(served: ServedDaemon) -> dict[str, Any]:
    token = (served.state_dir / "admin.token").read_text().strip()
    answer = httpx.get(f"{served.url}/api/status", headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def load_of(served: ServedDaemon) -> tuple[int, int]:
    """(running, waiting)."""
    scheduler = status(served)["scheduler"]
    return len(scheduler["rows"]), scheduler["queue_depth"]


def wait_for(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    until_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until_s, f"not within {limit_s} s: {what}"
        time.sleep(0.02)


def wait_for_load(served: ServedDaemon, running: int, waiting: int, limit_s: float = 60) -> None:
    wait_for(lambda: load_of(served) == (running, waiting), limit_s, f"{running} running, {waiting} waiting")


def in_background(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def error_of(lines: list[str]) -> dict[str, Any]:
    """The in-stream error; the stream must not look complete after it."""
    assert "[DONE]" not in lines
    told = [json.loads(line) for line in lines if line.startswith("{") and "error" in json.loads(line)]
    assert len(told) == 1, lines
    found: dict[str, Any] = told[0]["error"]
    return found
