"""`mlxd config`: every knob with its value, where that came from, and what it means."""

from __future__ import annotations

import json
from typing import Any

import click

from mlxd.cli.options import KnobCommand, knob_options, read_settings
from mlxd.config import GROUPS, KNOBS, Config, Knob
from mlxd.config.knob import AUTO


@click.command(cls=KnobCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@knob_options
def config(as_json: bool, **flags: Any) -> None:
    """Show every setting, its value and where it comes from.

    Takes the flags of `mlxd serve`, to see what they would do. Nothing shown is secret.
    """
    loaded = read_settings(flags)
    if as_json:
        rows = [_row(knob, loaded.config, loaded.origins[knob.name]) for knob in KNOBS]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for group in GROUPS:
        click.secho(group, bold=True)
        for knob in (knob for knob in KNOBS if knob.about.group == group):
            value = _shown(knob, getattr(loaded.config, knob.name))
            click.echo(f"  {knob.name} = {value}  ({loaded.origins[knob.name]})")
            click.secho(f"      {knob.about.text} {knob.flag}, {knob.env}", dim=True)


def _shown(knob: Knob, value: Any) -> str:
    match value:
        case None if knob.has_auto:
            return AUTO
        case None | () | "":
            return "unset"
        case bool(on):
            return "on" if on else "off"
        case tuple(parts):
            return ", ".join(map(str, parts))
        case float(number):
            return f"{number:g}"
        case _:
            return str(value)


def _row(knob: Knob, config: Config, origin: str) -> dict[str, object]:
    value = getattr(config, knob.name)
    return {
        "name": knob.name,
        "value": list(value) if isinstance(value, tuple) else str(value) if knob.name == "state_dir" else value,
        "source": origin,
        "default": knob.default_text,
        "accepted": knob.range_text,
        "flag": knob.flag,
        "variable": knob.env,
        "description": knob.about.text,
    }
