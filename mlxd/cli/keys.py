"""`mlxd keys`: named keys, made, listed with their use, and removed; in the running daemon, or where none runs."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any, Final
from urllib.parse import quote

import click

from mlxd.cli.admin_api import ask, running
from mlxd.cli.options import state_dir_option
from mlxd.paths import StateDir, harden_process, open_state_dir, resolve_state_dir
from mlxd.start_errors import StartError

SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def keys() -> None:
    """Make, list and remove API keys."""


@keys.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, help="`infer` (the default) or `admin`; may be given twice.")
@click.option("-m", "--model", "models", multiple=True, help="Only this model, by its id; may be given again.")
@click.option("--expires", help="Good for so long, as in 12h, 30d or 8w. Without it: until it is removed.")
@click.option("--per-minute", type=click.IntRange(1, 100_000), help="Most requests in any minute.")
@json_option
@state_dir_option
def add(
    name: str,
    scopes: tuple[str, ...],
    models: tuple[str, ...],
    expires: str | None,
    per_minute: int | None,
    as_json: bool,
    state_dir: str | None,
) -> None:
    """Make a key called NAME and print it, this once, as lines for a shell; alone if it is good for /api only.

    It counts at once in a running mlxd. Only its digest is kept.
    """
    wanted: dict[str, Any] = {"models": list(models), "requests_per_minute": per_minute or 0}
    if scopes:
        wanted["scopes"] = list(scopes)
    if expires is not None:
        wanted["expires_in_s"] = _seconds(expires)
    state = _state(state_dir)
    told = ask(state, "POST", "/api/keys", {"name": name, **wanted})
    if told is None:
        told = _offline_add(state, name, wanted)
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    use = "" if "infer" in told["scopes"] else " For /api, as Authorization: Bearer KEY."
    scope = " and ".join(told["scopes"])
    click.echo(f"# Key {told['name']} ({told['id']}), scope {scope}. Shown this once.{use}", err=True)
    for line in _lines(state, told):
        click.echo(line)


@keys.command()
@json_option
@state_dir_option
def ls(as_json: bool, state_dir: str | None) -> None:
    """List the keys with what each was used for. What is kept cannot tell a key."""
    state = StateDir(resolve_state_dir(state_dir, os.environ))
    told = ask(state, "GET", "/api/keys")
    rows = told["keys"] if told is not None else _offline_rows(state)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo("No keys yet. `mlxd keys add NAME` makes one.")
    else:
        _print(rows)


@keys.command()
@click.argument("name")
@state_dir_option
def rm(name: str, state_dir: str | None) -> None:
    """Remove a key by its NAME or its id. Its requests are refused from then on."""
    state = _state(state_dir)
    told = ask(state, "DELETE", f"/api/keys/{quote(name, safe='')}")
    if told is None:
        from mlxd.keys import offline

        told = offline.removed(state, name)
    if told is None:
        raise StartError(f"There is no key {name[:64]!r}.", cure="`mlxd keys ls` lists them.")
    click.echo(f"Removed {told['name']} ({told['id']}).")


def _state(state_dir: str | None) -> StateDir:
    """The state directory, made if need be: the first key may come before the first start."""
    harden_process()
    return open_state_dir(resolve_state_dir(state_dir, os.environ))


def _offline_add(state: StateDir, name: str, wanted: dict[str, Any]) -> dict[str, Any]:
    from inference.errors import InferenceError
    from mlxd.keys import offline

    try:
        return offline.added(state, name, **wanted)
    except InferenceError as error:
        raise StartError(error.message) from None


def _offline_rows(state: StateDir) -> list[dict[str, Any]]:
    from mlxd.keys import offline

    return offline.listed(open_state_dir(state.root)) if state.database.exists() else []


def _lines(state: StateDir, told: dict[str, Any]) -> list[str]:
    """What a shell is given: clients of the models know these names. A key that answers no prompt is for none of them,
    and stands alone."""
    if "infer" not in told["scopes"]:
        return [told["key"]]
    daemon = running(state)
    base = [] if daemon is None else [f"export OPENAI_BASE_URL={daemon.url}/v1"]
    return [*base, f"export OPENAI_API_KEY={told['key']}", f"export ANTHROPIC_API_KEY={told['key']}"]


def _seconds(span: str) -> float:
    found = SPAN.fullmatch(span.strip().lower())
    if found is None or not float(found[1]):
        raise StartError(f"--expires {span[:32]!r} is no span of time.", cure="For example 12h, 30d or 8w.")
    return float(found[1]) * UNIT_S[found[2]]


def _print(rows: list[dict[str, Any]]) -> None:
    head = ("ID", "NAME", "SCOPES", "MODELS", "EXPIRES", "LAST USED", "REQUESTS", "PROMPT", "CACHED", "OUTPUT")
    table = [head, *map(_cells, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    expires = "expired" if row["expired"] else _moment(row["expires_s"])
    counts = (row[name] for name in ("requests", "prompt_tokens", "cached_tokens", "completion_tokens"))
    names = (",".join(row["scopes"]), ",".join(row["models"]) or "all")
    return (row["id"], row["name"], *names, expires, _moment(row["last_used_s"]), *(f"{count:,}" for count in counts))


def _moment(at_s: float | None) -> str:
    return "never" if at_s is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s))
