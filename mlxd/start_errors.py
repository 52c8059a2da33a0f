"""Why mlxd will not start: one small tree, each with a cure. All of them end the command with exit code 2."""

from __future__ import annotations


class StartError(Exception):
    """The command cannot run as asked. `message` says why and `cure` what to do; neither holds a secret."""

    exit_code = 2

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(message if not cure else f"{message}\n{cure}")
        self.message = message
        self.cure = cure


class InvalidSetting(StartError):
    """A setting has a value it cannot take, or two settings contradict each other."""


class UnsafeStateDir(StartError):
    """The state directory, or a file in it, is readable by others, not ours, or on a disk that cannot hold it."""


class AlreadyRunning(StartError):
    """Another mlxd holds this state directory. `pid` is a hint from its lock file, None when unreadable."""

    def __init__(self, message: str, *, cure: str = "", pid: int | None = None) -> None:
        super().__init__(message, cure=cure)
        self.pid = pid


class PortTaken(StartError):
    """Something already listens on the port."""


class ShadowedPackage(StartError):
    """`inference` or `dashboard` is not the one that came with this mlxd."""
