"""The state directory: where it is, that nobody else can read it, and the secrets that are made in it.

Directories are 0700, files 0600, symbolic links are not followed, and a directory that is looser or belongs to
somebody else is refused rather than repaired: whatever was in it may already have been read or planted.
"""

from __future__ import annotations

import errno
import os
import resource
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlxd.mounts import unsuitable
from mlxd.start_errors import UnsafeStateDir

ADMIN_TOKEN_PREFIX = "mlxd_admin_"  # noqa: S105 - the public part
TOKEN_BYTES = 32
MAX_SECRET_BYTES = 4096


@dataclass(frozen=True, slots=True)
class StateDir:
    """The places in one state directory. Made by `open_state_dir`, or by hand to look without creating."""

    root: Path

    @property
    def admin_token(self) -> Path:
        return self.root / "admin.token"

    @property
    def secret_key(self) -> Path:
        return self.root / "secret.key"

    @property
    def lock(self) -> Path:
        return self.root / "mlxd.lock"

    @property
    def daemon(self) -> Path:
        """Written while a daemon listens: its pid and URL, as a hint for the other commands."""
        return self.root / "daemon.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def database(self) -> Path:
        return self.root / "mlxd.sqlite3"

    @property
    def prefixes(self) -> Path:
        """Computed prefixes, kept beyond the process; it may be removed at any time."""
        return self.root / "prefixes"

    @property
    def loads(self) -> Path:
        """Which model is being loaded, and which loads killed a process."""
        return self.root / "loads.json"

    @property
    def saved_settings(self) -> Path:
        """What an admin has set while mlxd ran, to hold from then on."""
        return self.root / "settings.json"

    @property
    def dotenv(self) -> Path:
        return self.root / ".env"


def resolve_state_dir(flag: str | None, environ: Mapping[str, str]) -> Path:
    """Flag over `MLXD_STATE_DIR` over the platform's data directory; absolute, not created, links not resolved."""
    chosen = flag or environ.get("MLXD_STATE_DIR") or ""
    if chosen:
        return Path(os.path.abspath(Path(chosen).expanduser()))  # noqa: PTH100 - resolve() would follow links
    from platformdirs import user_data_path  # 60 ms that --help need not pay

    return user_data_path("mlxd", appauthor=False)


def harden_process() -> None:
    """What is created from here on is ours alone, a crash leaves no core file with prompts in it, and no file gets the
    number of a closed standard stream: what is written there by libraries would go into it."""
    for number in range(3):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def open_state_dir(root: Path) -> StateDir:
    """Creates the directory if need be and checks it; call `harden_process` first. Raises `UnsafeStateDir`."""
    reason = unsuitable(root)
    if reason:
        raise UnsafeStateDir(
            f"The state directory {root} lies on {reason}; locks and databases do not work there.",
            cure="Choose a local directory with --state-dir or MLXD_STATE_DIR.",
        )
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UnsafeStateDir(
            f"The state directory {root} cannot be used: {error.strerror}.",
            cure=cure_of(error, "It must be a real directory, not a link or a file. Choose another with --state-dir."),
        ) from error
    try:
        _refuse_others(root, os.fstat(descriptor))
    finally:
        os.close(descriptor)
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        _refuse_unwritable(root)
    return StateDir(root)


def _refuse_unwritable(root: Path) -> None:
    if os.statvfs(root).f_flag & os.ST_RDONLY:
        raise UnsafeStateDir(
            f"The state directory {root} lies on a disk that can only be read.",
            cure="Choose another with --state-dir, or mount the disk for writing.",
        )
    raise UnsafeStateDir(f"The state directory {root} cannot be written.", cure=f"chmod 700 {root}")


def cure_of(error: OSError, otherwise: str) -> str:
    """What to do about a file that cannot be made or written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space on that disk, or remove files: `df -h` and `df -i` show which of them it lacks."
    if error.errno == errno.EROFS:
        return "Choose another directory with --state-dir, or mount the disk for writing."
    return otherwise


def _refuse_others(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise UnsafeStateDir(
            f"{path} belongs to user {status.st_uid}, and mlxd runs as {os.geteuid()}.",
            cure="Run mlxd as its owner, or choose another directory with --state-dir.",
        )
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        wanted = "700" if stat.S_ISDIR(status.st_mode) else "600"
        raise UnsafeStateDir(
            f"{path} is open to other users (mode {mode:o}).",
            cure=f"If nobody else has used it: chmod {wanted} {path}",
        )


def read_private(path: Path, most_chars: int = MAX_SECRET_BYTES) -> str | None:
    """The text of one of our files up to a length, None where there is none.

    Raises `UnsafeStateDir` for a link or a looser mode.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnsafeStateDir(f"{path} cannot be read: {error.strerror}.", cure=f"Remove it: rm {path}") from error
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeStateDir(f"{path} is not a file.", cure=f"Remove it: rm -r {path}")
        _refuse_others(path, status)
        return file.read(most_chars)


def private_file(path: Path) -> None:
    """Sees to it that a file is there and ours alone, for others to open by name. Raises `UnsafeStateDir`."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise UnsafeStateDir(
            f"{path} cannot be opened: {error.strerror}.", cure=cure_of(error, f"Remove it: rm {path}")
        ) from error
    try:
        _refuse_others(path, os.fstat(descriptor))
    finally:
        os.close(descriptor)


def synced(path: Path) -> Path:
    """The same path, once all of the file is on the disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return path


def write_private(path: Path, text: str) -> None:
    """Replaces a file as a whole: a reader sees the old text or the new one, never a part of it."""
    _write_beside(path, text).replace(path)


def _write_beside(path: Path, text: str) -> Path:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise UnsafeStateDir(
            f"{path} cannot be written: {error.strerror}.", cure=cure_of(error, "`mlxd doctor` tells more.")
        ) from error
    return fresh


def _secret(path: Path, make: str, *, prefix: str = "") -> str:
    """Reads a secret or makes it. `link` fails if the name exists, so two starters end up with the same one."""
    if read_private(path) is None:
        fresh = _write_beside(path, f"{make}\n")
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass  # somebody was quicker: theirs counts
        finally:
            fresh.unlink()
    text = (read_private(path) or "").strip()
    if len(text) < len(prefix) + TOKEN_BYTES or not text.startswith(prefix):
        raise UnsafeStateDir(f"{path} does not hold a secret of mlxd.", cure=f"Remove it, a new one is made: rm {path}")
    return text


def admin_token(state: StateDir) -> str:
    """The token of the admin API, 256 random bits, made when it is first asked for. Raises `UnsafeStateDir`."""
    return _secret(
        state.admin_token, ADMIN_TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES), prefix=ADMIN_TOKEN_PREFIX
    )


def new_admin_token(path: Path) -> str:
    """Puts a fresh token in the place of the one in a file. Raises `UnsafeStateDir`."""
    token = ADMIN_TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    write_private(path, f"{token}\n")
    return token


def secret_key(state: StateDir) -> str:
    """Django's signing key, made when it is first asked for. Raises `UnsafeStateDir`."""
    return _secret(state.secret_key, secrets.token_urlsafe(48))
