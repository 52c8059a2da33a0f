"""`mlxd models load` and `mlxd models unload`: orders to the running daemon."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import click

from mlxd.cli.admin_api import ask
from mlxd.cli.options import state_dir_option
from mlxd.paths import StateDir, resolve_state_dir
from mlxd.start_errors import StartError

MIB: Final = 1 << 20
LOAD_S: Final = 3600.0
"""A large model on a slow disk takes minutes."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.argument("model")
@click.option("--name", help="What clients call it, for a model that is not served yet.")
@json_option
@state_dir_option
def load(model: str, name: str | None, as_json: bool, state_dir: str | None) -> None:
    """Bring MODEL into memory: one that is served, one of the cache by its id, or a directory below a model root."""
    order = {"model_id": _placed(model), **({} if name is None else {"name": name})}
    told = _asked(state_dir, "/api/models/load", order)
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    weights_bytes = told["model"]["limits"]["weights_bytes"]
    click.echo(
        f"{told['model']['id']} is in memory: {weights_bytes / MIB:,.0f} MiB of weights, {told['load_s']:.1f} s."
    )


@click.command()
@click.argument("model", required=False)
@click.option("--force", is_flag=True, help="End the requests of the model.")
@click.option("--drain", is_flag=True, help="Let answers that run end first.")
@json_option
@state_dir_option
def unload(model: str | None, force: bool, drain: bool, as_json: bool, state_dir: str | None) -> None:
    """Free the memory of MODEL, or of all. One that is in use stays, unless told otherwise."""
    order: dict[str, Any] = {"force": force, "drain": drain}
    if model is not None:
        order["model_id"] = _placed(model)
    told = _asked(state_dir, "/api/models/unload", order)
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    for receipt in told["unloaded"]:
        click.echo(f"{receipt['id']}: {receipt['freed_bytes'] / MIB:,.0f} MiB came back.")
    if not told["unloaded"]:
        click.echo("Nothing was in memory.")


def _placed(model: str) -> str:
    """A directory as the daemon finds it, wherever that was started; an id as it is."""
    return str(Path(model).expanduser().resolve()) if model.startswith((".", "/", "~")) else model


def _asked(state_dir: str | None, path: str, order: dict[str, Any]) -> dict[str, Any]:
    told = ask(StateDir(resolve_state_dir(state_dir, os.environ)), "POST", path, order, timeout_s=LOAD_S)
    if told is None:
        raise StartError("mlxd does not run.", cure="Start it with `mlxd serve`.")
    return told
