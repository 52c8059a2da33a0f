"""Django settings: loud, small, no surprises."""

SECRET_KEY = "unset"  # noqa: S105
DEBUG = False
USE_TZ = True
TIME_ZONE = "UTC"
INSTALLED_APPS = ["ninja", "dashboard"]
DATABASES: dict[str, object] = {}
