"""What a process knows of those before it: their turns, and the answers that clients may still send back."""

from __future__ import annotations

from inference.conversation.healing import HealingStore
from mlxd.config import Config
from mlxd.echoes import Echoes
from mlxd.ledger.ledger import Ledger
from mlxd.paths import StateDir


def recollected(config: Config, state: StateDir) -> tuple[Ledger, Echoes]:
    """The ledger, and the answers, which fill while requests are served. Django is set up by now. Raises
    `StartError`."""
    ledger = _opened(config, state)
    echoes = Echoes(HealingStore(config.healing_turns), ledger)
    ledger.restore(echoes.store)
    return ledger, echoes


def _opened(config: Config, state: StateDir) -> Ledger:
    if not config.ledger:
        return Ledger()
    from mlxd.ledger.disk import open_ledger

    return open_ledger(state.database, days=config.retention_days)
