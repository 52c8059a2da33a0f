"""The dashboard as a Django app: templates and static files found by their place."""

from django.apps import AppConfig


class DashboardConfig(AppConfig):
    name = "dashboard"
    verbose_name = "mlxd dashboard"
