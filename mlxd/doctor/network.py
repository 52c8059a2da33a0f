"""The port, the daemon behind it, and the addresses clients were given."""

from __future__ import annotations

import json
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from mlxd.doctor.findings import Finding, Scene, fail, ok, warn
from mlxd.doctor.port_holder import port_holder
from mlxd.instance import find_running

TIMEOUT_S = 3.0
CLIENT_URLS = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "MLX_LM_URL")
OURS = ("127.0.0.1", "localhost", "::1")


def port(scene: Scene) -> Finding:
    """The configured port is free, or held by the daemon of this state directory. A foreign process is only named."""
    number = scene.config.port
    holder = port_holder(number) if number else None
    running = find_running(scene.state)
    if holder is None:
        return ok("port", f"port {number} is free" if number else "any free port is taken")
    if running is not None and running.pid is not None and running.pid == holder.pid:
        return ok("port", f"port {number} is held by this mlxd (process {holder.pid})")
    if holder.is_mlxd:
        return warn(
            "port",
            f"Port {number} is held by another mlxd: process {holder.pid}, which does not use {scene.state.root}.",
            f"Use it, stop it (kill {holder.pid}), or start this one with another --port.",
        )
    return fail(
        "port",
        f"Port {number} is held by {holder.describe()}, which is not mlxd.",
        f"Start mlxd with another --port, or stop that process yourself{f': kill {holder.pid}' if holder.pid else ''}.",
    )


def daemon(scene: Scene) -> Finding:
    """A daemon that holds the state directory also answers; one that does not is stuck or a leftover."""
    running = find_running(scene.state)
    if running is None:
        return ok(
            "daemon", "no mlxd runs here; `mlxd serve --demo` starts one (until then clients see: connection refused)"
        )
    kill = f"kill {running.pid}" if running.pid else f"stop the process that holds {scene.state.lock}"
    if not running.url:
        return warn("daemon", f"mlxd (process {running.pid}) is starting and does not listen yet.", f"Wait, or {kill}.")
    status, body = get_json(f"{running.url}/health/ready")
    if status is None:
        return fail(
            "daemon", f"mlxd (process {running.pid}) does not answer at {running.url}.", f"{kill}, then start it again."
        )
    if get_json(f"{running.url}/health/live")[0] != 200:
        return fail(
            "daemon", f"mlxd at {running.url} says that its engine is dead or hung.", f"{kill}, then start it again."
        )
    if status != 200:
        reason = body.get("reason") if isinstance(body, dict) else None
        return warn(
            "daemon",
            f"mlxd at {running.url} is not ready: {str(reason)[:80]}.",
            "Wait for the model to load; see its log.",
        )
    return ok("daemon", f"mlxd (process {running.pid}) answers at {running.url}")


def client_addresses(scene: Scene) -> Finding:
    """Base URLs in the environment that point here without `/v1`, which ends in 404s."""
    wrong = [
        f"{name}={scene.environ[name][:80]}" for name in CLIENT_URLS if _lacks_v1(scene, scene.environ.get(name, ""))
    ]
    if wrong:
        right = f"http://127.0.0.1:{scene.config.port}/v1"
        return warn(
            "base url", f"{', '.join(wrong)} lacks the /v1 at its end.", f"export {wrong[0].partition('=')[0]}={right}"
        )
    if _is_here(scene, scene.environ.get("ANTHROPIC_BASE_URL", "")):
        return warn(
            "base url",
            "ANTHROPIC_BASE_URL points at mlxd, which does not speak the Anthropic dialect yet.",
            "Use a client of the OpenAI API, or unset ANTHROPIC_BASE_URL.",
        )
    return ok("base url", "no client address in the environment points here wrongly")


def _is_here(scene: Scene, url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.hostname in OURS and parts.port == scene.config.port
    except ValueError:
        return False


def _lacks_v1(scene: Scene, url: str) -> bool:
    return _is_here(scene, url) and not urlsplit(url).path.rstrip("/").endswith("/v1")


def get_json(url: str, token: str = "") -> tuple[int | None, Any]:
    """Status and JSON body of a GET to our own daemon, past any proxy; (None, None) where nobody answers."""
    request = Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310 - our own URL
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=TIMEOUT_S) as reply:
            return reply.status, _parsed(reply.read(1 << 20))
    except HTTPError as error:
        with error:
            return error.code, _parsed(error.read(1 << 20))
    except (URLError, OSError, ValueError):
        return None, None


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
