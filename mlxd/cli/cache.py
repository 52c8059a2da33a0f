"""`mlxd cache`: what is stored, on the disk and in a running daemon, whether it is whole, and how to be rid of it."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from mlxd.cli.admin_api import ask
from mlxd.cli.cache_carry import export, state_of, take_in
from mlxd.cli.options import state_dir_option
from mlxd.paths import StateDir
from mlxd.start_errors import StartError

if TYPE_CHECKING:
    from inference.cache.disk_check import Checked

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@dataclass(slots=True)
class ModelFiles:
    """What is on the disk of one model. `model` is "" for files that do not say."""

    model: str
    files: int = 0
    tokens: int = 0
    size_bytes: int = 0
    last_used_s: float = 0.0
    flawed: int = 0


@click.group()
def cache() -> None:
    """List, count, check, carry or remove what is stored of prompts."""


cache.add_command(export)
cache.add_command(take_in)


@cache.command()
@json_option
@state_dir_option
def ls(as_json: bool, state_dir: str | None) -> None:
    """List what is on the disk, by model. Only the beginning of each file is read."""
    models: dict[str, ModelFiles] = {}
    for one in _files(state_of(state_dir), whole=False):
        row = models.setdefault(one.model, ModelFiles(one.model))
        row.files, row.tokens, row.size_bytes = row.files + 1, row.tokens + one.tokens, row.size_bytes + one.nbytes
        row.last_used_s, row.flawed = max(row.last_used_s, one.changed_s), row.flawed + bool(one.flaw)
    rows = sorted(models.values(), key=lambda row: -row.size_bytes)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    for row in rows:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.last_used_s))
        flawed = f", {row.flawed} not usable" if row.flawed else ""
        size = f"{row.size_bytes / 2**20:,.1f} MiB"
        click.echo(f"{row.model or '(unknown)'}: {row.files:,} files, {row.tokens:,} tokens, {size}, {when}{flawed}")
    if not rows:
        click.echo("Nothing is on the disk.")


@cache.command()
@json_option
@state_dir_option
def stats(as_json: bool, state_dir: str | None) -> None:
    """Show what a running mlxd stores and counted, or how much is on the disk where none runs."""
    state = state_of(state_dir)
    told = ask(state, "GET", "/api/cache/stats")
    if told is None:
        files = list(_files(state, whole=False))
        told = {"running": False, "disk": {"files": len(files), "nbytes": sum(one.nbytes for one in files)}}
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    for name, value in _flat(told):
        click.echo(f"{name}: {value}")


@cache.command()
@json_option
@state_dir_option
def verify(as_json: bool, state_dir: str | None) -> None:
    """Read every file on the disk to its last byte; exit code 1 when one is not what it should be.

    Nothing is changed: what is broken is removed when it is next asked for.
    """
    files, nbytes, broken = 0, 0, []
    for one in _files(state_of(state_dir), whole=True):
        files, nbytes = files + 1, nbytes + one.nbytes
        if one.flaw:
            broken.append(one)
    if as_json:
        found = [{"path": str(one.path), "flaw": one.flaw} for one in broken]
        click.echo(json.dumps({"files": files, "bytes": nbytes, "broken": found}, indent=2))
    else:
        for one in broken:
            click.echo(f"{one.flaw}: {one.path}")
        click.echo(f"{files:,} files, {nbytes / 2**20:,.1f} MiB, {len(broken)} not usable")
    sys.exit(1 if broken else 0)


@cache.command()
@click.option("--all", "everything", is_flag=True, help="Everything, saved conversations too.")
@click.option("-m", "--model", help="All of a model; needs a running mlxd.")
@click.option("--session", help="What only this conversation holds; needs a running mlxd.")
@click.option("--key", metavar="NAME", help="With --session: the API key whose conversation it is.")
@json_option
@state_dir_option
def clear(
    everything: bool, model: str | None, session: str | None, key: str | None, as_json: bool, state_dir: str | None
) -> None:
    """Remove what is stored, from memory and disk. It cannot be undone."""
    if sum(map(bool, (everything, model, session))) != 1:
        raise StartError("Say what to remove.", cure="One of --all, --model NAME and --session ID.")
    if key is not None and (not key or not session):
        raise StartError("--key NAME says whose conversation --session ID is.", cure="Leave it out otherwise.")
    state = state_of(state_dir)
    wanted = {"all": True} if everything else {"model": model} if model else {"session": session}
    told = ask(state, "POST", f"/api/cache/clear{f'?owner={quote(key, safe="")}' if key else ''}", wanted)
    if told is None and not everything:
        raise StartError("No mlxd runs on this state directory.", cure="Start it, or remove everything: --all.")
    if told is None:
        told = {"running": False, "files": sum(1 for _ in _files(state, whole=False))}
        try:
            if state.prefixes.exists():
                shutil.rmtree(state.prefixes)
        except OSError as error:
            raise StartError(f"{state.prefixes} could not be removed: {error.strerror}.") from None
    click.echo(json.dumps(told, indent=2) if as_json else "\n".join(f"{name}: {value}" for name, value in _flat(told)))


def _files(state: StateDir, *, whole: bool) -> Iterator[Checked]:
    from inference.cache.disk_check import check
    from inference.engine.block_file import SafetensorsCodec

    try:
        yield from check(state.prefixes, SafetensorsCodec(), whole=whole)
    except OSError as error:
        raise StartError(f"{state.prefixes} could not be read: {error.strerror}.") from None


def _flat(value: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested counts as dotted names."""
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{before}{name}.")
        elif not isinstance(inner, list):
            yield f"{before}{name}", inner
