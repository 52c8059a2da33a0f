"""How a command reaches the daemon of a state directory, where one runs."""

from __future__ import annotations

import os
from typing import Any

from mlxd.paths import StateDir, read_private, resolve_state_dir
from mlxd.start_errors import StartError

TIMEOUT_S = 60.0
"""The daemon answers between two steps of its work."""


def state_of(state_dir: str | None) -> StateDir:
    """The state directory of a command that only looks; nothing is created."""
    return StateDir(resolve_state_dir(state_dir, os.environ))


def asked(
    state: StateDir, method: str, path: str, body: dict[str, Any] | None = None, *, timeout_s: float = TIMEOUT_S
) -> dict[str, Any] | None:
    """What the admin API of a state directory's daemon answers; None where none runs. Raises `StartError`."""
    import httpx

    from mlxd.instance import find_running

    running = find_running(state)
    if running is None:
        return None
    token = (read_private(state.admin_token) or "").strip()
    try:
        with httpx.Client(trust_env=False, timeout=timeout_s, headers={"Authorization": f"Bearer {token}"}) as client:
            reply = client.request(method, f"{running.url}{path}", json=body)
            told: dict[str, Any] = reply.raise_for_status().json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise StartError(f"The running mlxd (process {running.pid}) did not answer: {error}.") from None
    return told
