"""mlxd as a Django app: it brings checks, and starts nothing."""

from __future__ import annotations

from django.apps import AppConfig


class ServiceConfig(AppConfig):
    name = "mlxd"
    label = "mlxd"

    def ready(self) -> None:
        from mlxd.api import checks  # noqa: F401  importing registers them
