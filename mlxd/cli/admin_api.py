"""How a command asks the daemon of a state directory: with the admin token, once it has proved to be that daemon."""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING, Any

from mlxd.paths import StateDir, read_private
from mlxd.start_errors import StartError

if TYPE_CHECKING:
    import httpx

    from mlxd.instance import RunningDaemon

TIMEOUT_S = 60.0
"""The daemon answers between two steps of its work."""


def running(state: StateDir) -> RunningDaemon | None:
    """The daemon, None where none runs. Raises `StartError` for one that does not listen yet."""
    from mlxd.instance import find_running

    found = find_running(state)
    if found is not None and not found.url:
        raise StartError(f"mlxd (process {found.pid}) is starting or about to end.", cure="Try again in a moment.")
    return found


def ask(
    state: StateDir, method: str, path: str, body: dict[str, Any] | None = None, *, timeout_s: float = TIMEOUT_S
) -> dict[str, Any] | None:
    """What the daemon answers; None where none runs. Raises `StartError` for a refusal, with the daemon's own words."""
    import httpx

    daemon = running(state)
    if daemon is None:
        return None
    try:
        with httpx.Client(base_url=daemon.url, trust_env=False, timeout=timeout_s) as client:
            prove(client, state)
            token = (read_private(state.admin_token) or "").strip()
            reply = client.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})
            told = reply.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise StartError(f"mlxd (process {daemon.pid}) did not answer: {type(error).__name__}.") from None
    if reply.is_error or not isinstance(told, dict):
        refusal = told.get("error") if isinstance(told, dict) else None
        message = refusal.get("message") if isinstance(refusal, dict) else None
        raise StartError(f"mlxd refused: {message or reply.status_code}")
    return told


def prove(client: httpx.Client, state: StateDir) -> None:
    """Has what answers show that it reads the same state directory, before a credential is sent to it: somebody else
    may have taken the port of a daemon that has just died. Raises `StartError`, `httpx.HTTPError` or `ValueError`."""
    from mlxd.instance import proof

    secret, challenge = (read_private(state.secret_key) or "").strip(), secrets.token_hex(32)
    told = client.get("/health/identity", params={"challenge": challenge}).json()
    given = told.get("proof") if isinstance(told, dict) else None
    expected = proof(secret.encode(), challenge)
    if not secret or not isinstance(given, str) or not hmac.compare_digest(given.encode(), expected.encode()):
        raise StartError(
            f"What answers at {client.base_url} is not the mlxd of {state.root}. It was sent no token.",
            cure="`mlxd doctor` says who holds the port.",
        )
