"""The real application over a runtime of a test's own, with an admin, for as long as the test needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlxd import runtime
from mlxd.api import policy
from mlxd.runtime import Runtime

TOKEN = "mlxd_admin_" + "t" * 43
ADMIN = {"authorization": f"Bearer {TOKEN}"}


@contextmanager
def installed(made: Runtime) -> Iterator[Runtime]:
    """Requests of this process are answered by `made`, which is closed at the end."""
    runtime.install(made)
    policy.install(policy.Policy(admin_digest=policy.digest(TOKEN)))
    try:
        yield made
    finally:
        runtime.install(None)
        policy.install(policy.Policy())
        made.close()
