"""Where Django finds things: the API at its prefixes, the dashboard at the root."""

from __future__ import annotations

from django.urls import include, path

from mlxd.api.root import api

urlpatterns = [
    path("", include("dashboard.urls")),
    path("", api.urls),
]
