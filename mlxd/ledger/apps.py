"""The ledger as a Django app. It opens nothing: `mlxd.ledger.database` does, when a daemon starts."""

from __future__ import annotations

from django.apps import AppConfig


class LedgerConfig(AppConfig):
    name = "mlxd.ledger"
    label = "ledger"
