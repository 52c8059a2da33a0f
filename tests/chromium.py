"""A real browser without a window, driven over the DevTools protocol.

with Chromium(directory) as browser, browser.page() as page:
    page.open("http://127.0.0.1:8080/login")
    page.run("document.title")
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import httpx
from websockets.sync.client import ClientConnection, connect

LIMIT_S: Final = 60.0
FOUND: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-extensions", "--disable-sync", "--no-first-run",
    "--no-default-browser-check", "--no-proxy-server", "--remote-debugging-port=0",
)  # fmt: skip


class Page:
    """One tab. `dialogs` are the messages of all that were opened; each is closed at once."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._asked = 0
        self._loads = 0
        self.dialogs: list[str] = []
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """What the browser answers to a command."""
        number = self._send(method, params)
        until_s = time.monotonic() + LIMIT_S
        while (told := self._hear(until_s)).get("id") != number:
            pass
        assert "error" not in told, told
        return dict(told["result"])

    def open(self, url: str) -> None:
        """Until all of the page is there."""
        before = self._loads
        self.call("Page.navigate", url=url)
        until_s = time.monotonic() + LIMIT_S
        while self._loads == before:
            self._hear(until_s)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise's when it is kept."""
        told = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Until an expression is true; the page may be another by then."""
        until_s = time.monotonic() + LIMIT_S
        while not self.run(condition):
            assert time.monotonic() < until_s, condition
            time.sleep(0.02)

    def _send(self, method: str, params: dict[str, Any]) -> int:
        self._asked += 1
        self._socket.send(json.dumps({"id": self._asked, "method": method, "params": params}))
        return self._asked

    def _hear(self, until_s: float) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self._socket.recv(timeout=max(0.0, until_s - time.monotonic())))
        if told.get("method") == "Page.javascriptDialogOpening":
            self.dialogs.append(told["params"]["message"])
            self._send("Page.handleJavaScriptDialog", {"accept": True})
        elif told.get("method") == "Page.loadEventFired":
            self._loads += 1
        return told


class Chromium:
    """The process. Raises `AssertionError` where it does not come up."""

    def __init__(self, directory: Path) -> None:
        assert FOUND is not None, "there is no Chromium here"
        self._told = directory / "DevToolsActivePort"
        command = [FOUND, *FLAGS, f"--user-data-dir={directory}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        until_s = time.monotonic() + LIMIT_S
        while not (self._told.exists() and self._told.read_text().count("\n")):
            assert self._process.poll() is None and time.monotonic() < until_s, "Chromium did not come up"
            time.sleep(0.02)
        self._url = f"http://127.0.0.1:{self._told.read_text().splitlines()[0]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(60)

    @contextmanager
    def page(self) -> Iterator[Page]:
        """A new tab; all share their cookies."""
        made = httpx.put(f"{self._url}/json/new?about:blank", timeout=LIMIT_S, trust_env=False).json()
        with connect(made["webSocketDebuggerUrl"], max_size=None, open_timeout=LIMIT_S, proxy=None) as socket:
            yield Page(socket)
        httpx.get(f"{self._url}/json/close/{made['id']}", timeout=LIMIT_S, trust_env=False)
