"""`mlxd models`: the models on this machine, and which of them a running daemon serves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

from mlxd.cli.options import state_dir_option
from mlxd.paths import StateDir, resolve_state_dir

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One line of the list. `state` is "" for a model no daemon serves; 0 is unknown."""

    id: str
    size_bytes: int
    context_tokens: int
    kind: str
    state: str
    path: str


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@state_dir_option
def models(as_json: bool, state_dir: str | None) -> None:
    """List the models on this machine: those in the Hugging Face cache and those a running mlxd serves."""
    rows = list(_rows(_served(StateDir(resolve_state_dir(state_dir, os.environ)))))
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
    elif not rows:
        click.echo("No models here yet. `mlxd serve --demo` needs none; `mlxd serve --model OWNER/NAME` downloads one.")
    else:
        _print(rows)


def _rows(served: dict[str, str]) -> Iterator[ModelRow]:
    from mlxd.catalog import local_models
    from mlxd.doctor.model_files import read_shape

    for model in local_models():
        shape = read_shape(model.path)
        state = served.pop(model.id, "") or served.pop(model.id.rpartition("/")[2], "")
        kind = "vision" if shape.vision else "text"
        yield ModelRow(model.id, model.size_bytes, shape.context_tokens, kind, state, str(model.path))
    for model_id, state in served.items():
        yield ModelRow(model_id, 0, 0, "", state, "")


def _served(state: StateDir) -> dict[str, str]:
    """Ids that the daemon of this state directory serves, with their state; empty where none runs."""
    from mlxd.doctor.network import get_json
    from mlxd.instance import find_running

    running = find_running(state)
    _, body = get_json(f"{running.url}/v1/models") if running and running.url else (None, None)
    listed: Any = body.get("data") if isinstance(body, dict) else None
    found = [item for item in listed or () if isinstance(item, dict) and isinstance(item.get("id"), str)]
    return {item["id"]: str(item.get("state") or "served") for item in found}


def _print(rows: list[ModelRow]) -> None:
    table = [("ID", "SIZE", "CONTEXT", "KIND", "STATE"), *(_cells(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cells(row: ModelRow) -> tuple[str, ...]:
    size = f"{row.size_bytes / GIB:.1f} GiB" if row.size_bytes else "-"
    context = f"{row.context_tokens:,}" if row.context_tokens else "-"
    return (row.id, size, context, row.kind or "-", row.state or "-")
