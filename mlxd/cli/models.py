"""`mlxd models`: the models on this machine, and which of them a running daemon serves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from mlxd.cli.admin_api import ask
from mlxd.cli.model_orders import load, unload
from mlxd.cli.options import state_dir_option
from mlxd.paths import StateDir, resolve_state_dir
from mlxd.start_errors import StartError

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One line of the list. `state` is "" for a model that no daemon serves; a number that is 0 is unknown.

    `unread` names what came with it and is never run or unpickled.
    """

    id: str
    size_bytes: int
    context_tokens: int
    kind: str
    state: str
    path: str
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """A model of the running daemon. `path` is "" where the daemon does not tell."""

    id: str
    path: str
    state: str


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@state_dir_option
@click.pass_context
def models(context: click.Context, as_json: bool, state_dir: str | None) -> None:
    """List the models on this machine: those in the Hugging Face cache and those a running mlxd serves."""
    if context.invoked_subcommand is not None:
        return
    rows = list(_rows(_served(StateDir(resolve_state_dir(state_dir, os.environ)))))
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
    elif not rows:
        click.echo("No models here yet. `mlxd serve --demo` needs none; `mlxd serve --model OWNER/NAME` downloads one.")
    else:
        _print(rows)


models.add_command(load)
models.add_command(unload)


def _rows(served: dict[str, Served]) -> Iterator[ModelRow]:
    from mlxd.catalog import local_models

    for model in local_models():
        found = next((one for one in served.values() if one.path == str(model.path) or one.id == model.id), None)
        yield _row(model.id if found is None else found.id, model.path, found.state if found else "")
        if found:
            del served[found.id]
    for one in served.values():
        yield _row(one.id, Path(one.path), one.state) if one.path else ModelRow(one.id, 0, 0, "", one.state, "")


def _row(model_id: str, path: Path, state: str) -> ModelRow:
    from inference.engine.left_unread import left_unread
    from mlxd.catalog.local import read_model
    from mlxd.doctor.model_files import read_shape

    shape, model = read_shape(path), read_model(model_id, path)
    kind = "vision" if shape.vision else "text"
    size_bytes = model.size_bytes if model else 0
    return ModelRow(model_id, size_bytes, shape.context_tokens, kind, state, str(path), left_unread(path))


def _served(state: StateDir) -> dict[str, Served]:
    """What the daemon of this state directory serves, by id; empty where none runs."""
    from mlxd.instance import find_running

    running = find_running(state)
    if running is None or not running.url:
        return {}
    try:
        status = ask(state, "GET", "/api/status") or {}
    except StartError:  # what it tells everybody will do
        status = {}
    known = _objects(status.get("models")) or _objects(_json(f"{running.url}/v1/models").get("data"))
    scheduler = status.get("scheduler")
    residents = _objects(scheduler.get("models")) if isinstance(scheduler, dict) else []
    doing = {str(item.get("id")): str(item.get("state")) for item in residents}
    return {served.id: served for served in (_one(item, doing) for item in known) if served.id}


def _one(item: dict[str, Any], doing: dict[str, str]) -> Served:
    model_id = str(item.get("id") or "")
    state = doing.get(model_id, "served")
    return Served(model_id, str(item.get("path") or ""), "loaded" if state == "ready" else state)


def _json(url: str) -> dict[str, Any]:
    from mlxd.doctor.network import get_json

    _, body = get_json(url)
    return body if isinstance(body, dict) else {}


def _objects(found: object) -> list[dict[str, Any]]:
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _print(rows: list[ModelRow]) -> None:
    table = [("ID", "SIZE", "CONTEXT", "KIND", "STATE"), *(_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for one in rows:
        if one.unread:
            click.echo(f"{one.id} came with code or pickled data, which mlxd never uses: {_listed(one.unread)}")


def _listed(names: tuple[str, ...]) -> str:
    """File names may hold anything but a slash; on a terminal they are shown as Python writes them."""
    shown = ", ".join(name if name.isprintable() else ascii(name) for name in names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown


def _cells(row: ModelRow) -> tuple[str, ...]:
    size = _size(row.size_bytes) if row.size_bytes else "-"
    context = f"{row.context_tokens:,}" if row.context_tokens else "-"
    return (row.id, size, context, row.kind or "-", row.state or "-")


def _size(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB / 10 else f"{size_bytes / MIB:.1f} MiB"
