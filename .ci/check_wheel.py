"""Builds the wheel, installs it into a clean environment and serves the demo model from it.

What a source tree hides shows here: a template or an asset that is not in the wheel, a dependency that is not declared.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

START_S = 120


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        subprocess.run(["uv", "build", "--quiet", "--wheel", "--out-dir", str(scratch)], check=True)
        wheel = next(scratch.glob("mlxd-*.whl"))
        venv = scratch / "venv"
        subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, str(venv)], check=True)
        python = venv / "bin" / "python"
        requirements = scratch / "requirements.txt"  # the versions the tests run with
        export = ["uv", "export", "--quiet", "--locked", "--no-dev", "--no-emit-project", "-o", str(requirements)]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
        install = ["uv", "pip", "install", "--quiet", "--python", str(python)]
        subprocess.run([*install, "-r", str(requirements)], check=True)
        subprocess.run([*install, "--no-deps", str(wheel)], check=True)
        subprocess.run([*install[:2], "check", "--python", str(python)], check=True)
        mlxd = venv / "bin" / "mlxd"
        version = subprocess.run([mlxd, "--version"], check=True, capture_output=True, text=True, cwd="/").stdout
        print(f"{wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB): {version.strip()}")
        serve(mlxd, scratch)


def serve(mlxd: Path, scratch: Path) -> None:
    """Serves the demo model from the wheel, asks it one question, looks at its page; SIGTERM must end it with 0."""
    command = [mlxd, "serve", "--demo", "--port", "0", "--state-dir", scratch / "state"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLXD_")}
    environment["MLXD_REQUIRE_KEY"] = "off"  # however many people have an account here
    log = scratch / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd="/", stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            base = wait_for_url(process, log)
            page = status_page(base, scratch / "state")
            assert "mlxd-demo" in page, page[:500]
            for static in re.findall(r'(?:href|src)="(/static/[^"]+)"', page):
                assert urllib.request.urlopen(base + static, timeout=30).status == 200, static
            print("answer:", json.dumps(ask(base)))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, process.returncode
        except BaseException:
            print(log.read_text())
            raise
        finally:
            process.kill()


def wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    """The base URL that the daemon prints when it listens."""
    for _ in range(START_S * 10):
        found = re.search(r"is ready at (http://\S+)", log.read_text())
        if found:
            return found[1]
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError("mlxd serve did not come up")


def status_page(base: str, state: Path) -> str:
    """The first page, signed in to as its form does it with the admin token."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    token = (state / "admin.token").read_text().strip()
    headers = {"Content-Type": "application/json", "Origin": base}
    signing = urllib.request.Request(base + "/api/login", json.dumps({"token": token}).encode(), headers)
    assert json.load(browser.open(signing, timeout=30))["signed_in"]
    return str(browser.open(base + "/", timeout=30).read().decode())


def ask(base: str) -> str:
    body = {"messages": [{"role": "user", "content": "What is mlxd?"}], "max_tokens": 40, "temperature": 0}
    request = urllib.request.Request(
        base + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        reply = json.load(response)
    assert reply["usage"]["completion_tokens"] > 0, reply
    return str(reply["choices"][0]["message"]["content"])


if __name__ == "__main__":
    main()
