"""`mlxd keys` where no daemon runs, and what the next one finds."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import CliRunner, Result
from pytest_django.plugin import DjangoDbBlocker

from mlxd.cli import cli
from mlxd.keys.access import Access
from mlxd.keys.key import ApiKey, Scope, Usage, digest, make_key
from mlxd.keys.opening import open_access
from mlxd.paths import StateDir
from mlxd.start_errors import StartError
from tests.ledger_database import database_at


@pytest.fixture
def state(tmp_path: Path, django_db_blocker: DjangoDbBlocker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MLXD_STATE_DIR", str(tmp_path / "state"))
    mask = os.umask(0o022)
    with database_at(tmp_path / "state" / "mlxd.sqlite3", django_db_blocker):
        yield tmp_path / "state"
    os.umask(mask)


def mlxd(state: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["keys", *words, "--state-dir", str(state)])


def test_a_key_is_made_before_the_first_start_and_told_once(state: Path) -> None:
    assert "No keys yet" in mlxd(state, "ls").stdout and not state.exists()
    made = mlxd(state, "add", "alice", "--expires", "30d", "-m", "tiny", "--per-minute", "9")
    lines = dict(line.removeprefix("export ").split("=", 1) for line in made.stdout.splitlines())
    secret = lines["OPENAI_API_KEY"]
    assert lines == {"OPENAI_API_KEY": secret, "ANTHROPIC_API_KEY": secret} and secret not in made.stderr
    (row,) = json.loads(mlxd(state, "ls", "--json").stdout)
    assert row["id"] == digest(secret).hex()[:8] and row["expires_s"] - row["created_s"] == 30 * 86_400
    assert {path.stat().st_mode & 0o777 for path in state.iterdir()} == {
        0o600
    } and state.stat().st_mode & 0o777 == 0o700
    assert not [path for path in state.iterdir() if secret[8:].encode() in path.read_bytes()]

    (key,) = (key for key, _ in reopened(state))
    assert (key.digest, key.name, key.models) == (digest(secret), "alice", ("tiny",))
    assert (key.scopes, key.requests_per_minute) == (frozenset({Scope.INFER}), 9)

    assert "Removed alice" in mlxd(state, "rm", row["id"]).stdout
    assert reopened(state) == []


def test_a_shell_reads_no_line_of_the_log(tmp_path: Path) -> None:
    """A damaged database is told of on the way; `eval` would run that."""
    (tmp_path / "mlxd.sqlite3").write_bytes(b"no database " * 1000)
    (tmp_path / "mlxd.sqlite3").chmod(0o600)
    tmp_path.chmod(0o700)
    command = [sys.executable, "-P", "-m", "mlxd", "keys", "add", "alice", "--state-dir", str(tmp_path)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.partition("=")[0] for line in made.stdout.splitlines()] == [
        "export OPENAI_API_KEY",
        "export ANTHROPIC_API_KEY",
    ]
    assert "database_set_aside" in made.stderr


def test_a_disk_that_does_not_take_it_is_named(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlxd(state, "add", "alice")
    monkeypatch.setattr("mlxd.ledger.copies.remove_copies", Mock(side_effect=OSError(errno.EIO, "broken")))
    ended = mlxd(state, "rm", "alice")
    assert isinstance(ended.exception, StartError) and "OSError" in ended.exception.message


@pytest.mark.parametrize(("scopes", "lines"), [(("infer",), 2), (("admin",), 1), (("admin", "infer"), 2)])
def test_a_shell_is_given_a_key_where_clients_of_the_models_can_use_it(
    scopes: tuple[str, ...], lines: int, state: Path
) -> None:
    made = mlxd(state, "add", "k", *(word for scope in scopes for word in ("--scope", scope)))
    assert len(made.stdout.splitlines()) == lines and made.stdout.count("mlxd_sk_") == lines
    assert ("OPENAI" in made.stdout) is ("infer" in scopes) is ("Bearer" not in made.stderr)


@pytest.mark.parametrize(
    "words",
    [
        ["add", "taken"],
        ["add", "a/b"],
        ["add", "x", "--expires", "soon"],
        ["add", "x", "--expires", "99999999w"],
        ["add", "x", "--scope", "root"],
        ["add", "x", *["--model", "m"] * 65],
        ["add", "x", "--model", "m" * 257],
        ["add", "x", "--model", "a\nb"],
        ["add", "x", "--model", ""],
        ["rm", "x"],
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(state: Path, words: list[str]) -> None:
    assert mlxd(state, "add", "taken").exit_code == 0
    assert isinstance(mlxd(state, *words).exception, StartError)
    assert [key.name for key, _ in reopened(state)] == ["taken"]


def reopened(root: Path) -> list[tuple[ApiKey, Usage]]:
    opened = open_access(StateDir(root), opened=False)
    opened.keyring.close()
    return opened.keyring.rows()


async def kept(opened: Access) -> tuple[str, ApiKey]:
    """A new key, used once."""
    secret, key = make_key("alice", lambda _: False)
    await opened.keyring.add(key)
    opened.keyring.admit(key)
    return secret, key


def test_a_daemon_without_a_ledger_makes_its_database_with_the_first_key(
    tmp_path: Path, django_db_blocker: DjangoDbBlocker
) -> None:
    with database_at(tmp_path / "mlxd.sqlite3", django_db_blocker) as path:
        opened = open_access(StateDir(tmp_path), opened=False)
        assert not path.exists()
        secret, key = asyncio.run(kept(opened))
        opened.keyring.close()
        ((again, usage),) = reopened(tmp_path)
        assert (again, usage.requests) == (key, 1)
    with closing(sqlite3.connect(path)) as database:
        dump = "\n".join(database.iterdump())
    assert key.digest.hex() in dump.lower() and secret[8:] not in dump


def test_a_scope_of_a_later_version_opens_nothing(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> None:
    with database_at(tmp_path / "mlxd.sqlite3", django_db_blocker) as path:
        opened = open_access(StateDir(tmp_path), opened=False)
        asyncio.run(kept(opened))
        opened.keyring.close()
        with closing(sqlite3.connect(path)) as database:
            database.execute("UPDATE ledger_key SET scopes = 'fly,admin'")
            database.commit()
        ((again, _),) = reopened(tmp_path)
        assert again.scopes == {Scope.ADMIN}


def test_a_database_that_cannot_be_read_lets_nobody_in(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> None:
    (tmp_path / "mlxd.sqlite3").mkdir()
    with database_at(tmp_path / "mlxd.sqlite3", django_db_blocker):
        opened = open_access(StateDir(tmp_path), opened=True)
        assert opened.keyring.rows() == [] and not opened.keyring.opens(Scope.INFER)
        opened.keyring.close()


def test_there_are_no_more_keys_than_a_daemon_would_make(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxd.keys.offline.MAX_KEYS", 1)
    assert mlxd(state, "add", "one").exit_code == 0
    assert "1 keys" in str(mlxd(state, "add", "two").exception)
    assert [key.name for key, _ in reopened(state)] == ["one"]
