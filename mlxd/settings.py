"""Django settings: loud, small, no surprises. What a user may change is in `mlxd.config`, not here."""

from __future__ import annotations

import os
import secrets

from django.utils.csp import CSP

from mlxd.paths import StateDir, read_private, resolve_state_dir
from mlxd.start_errors import UnsafeStateDir

DEBUG = False
"""Hard-wired: a debug page shows prompts."""

MAX_BODY_BYTES = 32 * 1024 * 1024


def _secret_key() -> str:
    """The key the daemon made. A command that finds none gets one that dies with it."""
    try:
        found = read_private(StateDir(resolve_state_dir(None, os.environ)).secret_key)
    except UnsafeStateDir:
        found = None
    return (found or "").strip() or secrets.token_urlsafe(48)


SECRET_KEY = _secret_key()
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
ROOT_URLCONF = "mlxd.urls"
ASGI_APPLICATION = "mlxd.asgi.application"
APPEND_SLASH = False

INSTALLED_APPS = ["django.contrib.staticfiles", "dashboard", "mlxd", "mlxd.ledger"]
MIDDLEWARE = [
    "mlxd.middleware.json_errors",
    "mlxd.middleware.StaticFiles",
    "mlxd.middleware.PageHeaders",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

DATABASES: dict[str, dict[str, object]] = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(StateDir(resolve_state_dir(None, os.environ)).database),
        "CONN_MAX_AGE": None,
        "OPTIONS": {
            "timeout": 5,
            "transaction_mode": "IMMEDIATE",  # deferred ones fail when they begin to write (27 % of four writers')
            "init_command": (
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA journal_size_limit=67108864;"
                " PRAGMA temp_store=MEMORY; PRAGMA cache_size=-8000; PRAGMA secure_delete=ON;"
                " PRAGMA wal_autocheckpoint=8000"  # mlxd.ledger.log_upkeep does it long before, beside the writer
            ),
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = False
LOGGING_CONFIG = None  # mlxd.log sets logging up; Django's own would mail and print request paths

# Bodies are limited by the transport, and one that fits is parsed in memory: a prompt never touches the disk.
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
FILE_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES

STATIC_URL = "/static/"
STATIC_ROOT = None
STATICFILES_FINDERS = ["django.contrib.staticfiles.finders.AppDirectoriesFinder"]
WHITENOISE_USE_FINDERS = True
WHITENOISE_ALLOW_ALL_ORIGINS = False

SECURE_CSP = {
    "default-src": [CSP.SELF],
    "base-uri": [CSP.NONE],
    "form-action": [CSP.SELF],
    "frame-ancestors": [CSP.NONE],
    "object-src": [CSP.NONE],
}
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "no-referrer"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CSRF_COOKIE_HTTPONLY = SESSION_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = SESSION_COOKIE_SAMESITE = "Strict"

SILENCED_SYSTEM_CHECKS = [
    "security.W001",  # SecurityMiddleware: its headers are set by mlxd.middleware on pages
    "security.W002",  # XFrameOptionsMiddleware: likewise
    "security.W003",  # CsrfViewMiddleware: mlxd.api.auth asks signed-in browsers for our Origin and a header of theirs
]
