"""Command lines of `curl`, as other servers' manuals write them; where there is no curl, its bytes by a socket."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Sequence
from http.client import HTTPResponse
from urllib.parse import urlsplit

CURL = shutil.which("curl")
TIMEOUT_S = 60.0
FORM = "application/x-www-form-urlencoded"


def curl(url: str, *arguments: str) -> str:
    """The body of the answer, whatever its status."""
    return by_curl(url, *arguments) if CURL is not None else by_socket(url, *arguments)


def by_curl(url: str, *arguments: str) -> str:
    command = ["curl", "-sS", *arguments, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_socket(url: str, *arguments: str) -> str:
    """As `by_curl`, and without it."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname or "", place.port or 80), TIMEOUT_S) as connection:
        connection.sendall(request_of(url, *arguments))
        answer = HTTPResponse(connection)
        answer.begin()
        return answer.read().decode()


def request_of(url: str, *arguments: str) -> bytes:
    """What curl sends for a line with `-X`, `-H` and `-d`."""
    place = urlsplit(url)
    given = _given(arguments)
    data = "".join(given["-d"]).encode()
    method = (given["-X"] or ["POST" if data else "GET"])[-1]
    target = place.path + (f"?{place.query}" if place.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {place.netloc}", "User-Agent: curl/8.7.1", "Accept: */*"]
    lines += given["-H"]
    if data:
        lines += [f"Content-Length: {len(data)}"]
        if not any(line.lower().startswith("content-type:") for line in given["-H"]):
            lines += [f"Content-Type: {FORM}"]
    return "\r\n".join([*lines, "", ""]).encode() + data


def _given(arguments: Sequence[str]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {"-X": [], "-H": [], "-d": []}
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        given[option].append(value)
    return given
