"""A real `mlxd serve` in a process of its own, started and ended like a user would."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

START_S = 240.0
"""2 s alone; 80 s were seen where ten others start as well."""
MLXD = (sys.executable, "-P", "-m", "mlxd")


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without what a developer's shell may have set for mlxd or for HTTP clients, and without regard to
    how many people have accounts on the machine."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLXD_", "OPENAI_", "HTTP"))}
    return {**kept, "PYTHONUNBUFFERED": "1", "MLXD_REQUIRE_KEY": "off", **more}


@dataclass
class ServedDaemon:
    """Starts on construction; `url` is known once the port answers. Use it as a context."""

    state_dir: Path
    arguments: Sequence[str] = ()
    command: Sequence[str] = MLXD
    environment: dict[str, str] = field(default_factory=dict)
    url: str = ""

    def __post_init__(self) -> None:
        self.log = self.state_dir.parent / f"{self.state_dir.name}.log"
        self.http = httpx.Client(timeout=60)
        self._output = self.log.open("wb")
        command = [*self.command, "serve", "--port", "0", "--state-dir", str(self.state_dir), *self.arguments]
        environment = clean_environment(**self.environment)
        self.process = subprocess.Popen(command, stdout=self._output, stderr=subprocess.STDOUT, env=environment)

    def __enter__(self) -> ServedDaemon:
        try:
            self.wait_live()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def wait_live(self) -> None:
        """Until the port answers. Raises with the log when the process ends instead."""
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            found = re.search(r"is ready at (http://\S+)", self.log.read_text(errors="replace"))
            if found:
                self.url = found[1]
                self.http.base_url = found[1]
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"mlxd did not come up (code {self.process.poll()}):\n{self.log.read_text()}")

    def wait_ready(self) -> None:
        """Until requests are answered: the default model is in memory."""
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            if self.http.get("/health/ready").status_code == 200:
                return
            time.sleep(0.05)
        raise AssertionError(f"mlxd did not get ready:\n{self.log.read_text()}")

    @property
    def admin(self) -> dict[str, str]:
        """The admin token as a header."""
        return {"Authorization": f"Bearer {(self.state_dir / 'admin.token').read_text().strip()}"}

    def browser(self) -> dict[str, str]:
        """What a page sends of a browser that was signed in as `mlxd open` does it."""
        code = httpx.post(f"{self.url}/api/login/code", headers=self.admin, json={}, timeout=60).json()["code"]
        answer = httpx.post(f"{self.url}/api/login", headers={"Origin": self.url}, json={"code": code}, timeout=60)
        ((name, value),) = answer.raise_for_status().cookies.items()
        return {"Cookie": f"{name}={value}", "Origin": self.url, "X-MLXD-CSRF": answer.json()["csrf"]}

    def terminate(self, timeout_s: float = 120) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        self._output.close()
        self.http.close()
