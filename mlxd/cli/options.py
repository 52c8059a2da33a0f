"""Command-line options made from the knobs, and what several commands do with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from mlxd.config import BY_NAME, GROUPS, KNOBS, Knob
from mlxd.paths import StateDir, resolve_state_dir

if TYPE_CHECKING:
    from mlxd.config.load import LoadedConfig

METAVARS = {int: "N", float: "NUMBER", str: "TEXT", tuple: "TEXT"}


class KnobCommand(click.Command):
    """A command whose help lists its knobs by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                knob = BY_NAME.get(param.name or "")
                rows.setdefault(knob.about.group if knob else "Options", []).append(record)
        for group in (*GROUPS, "Options"):
            if group in rows:
                with formatter.section(group):
                    formatter.write_dl(rows[group])


def knob_options[F: Callable[..., Any]](command: F) -> F:
    """Adds every knob as an option. The command gets those that were given as `**flags`; see `given`."""
    for knob in reversed(KNOBS):
        command = _option(knob)(command)
    return command


def state_dir_option[F: Callable[..., Any]](command: F) -> F:
    """Adds `--state-dir` to a command that needs no other knob."""
    wrapped: F = _option(BY_NAME["state_dir"])(command)
    return wrapped


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs that were set on the command line."""
    return {name: value for name, value in flags.items() if name in BY_NAME and value not in (None, ())}


def read_settings(flags: Mapping[str, Any]) -> LoadedConfig:
    """The settings for these flags; what looks odd in them goes to stderr. Raises `StartError`."""
    from mlxd.config.load import load
    from mlxd.saved_settings import read_saved

    root = resolve_state_dir(flags.get("state_dir"), os.environ)
    loaded = load(given(flags), root, read_saved(StateDir(root).saved_settings).knobs)
    for warning in loaded.warnings:
        click.echo(f"mlxd: warning: {warning}", err=True)
    return loaded


def _option(knob: Knob) -> Callable[[Any], Any]:
    names = [knob.flag, *([f"-{knob.about.short}"] if knob.about.short else []), knob.name]
    text = f"{knob.about.text}  [{_facts(knob)}]"
    if knob.kind is bool:
        return click.option(f"{knob.flag}/--no-{knob.flag.removeprefix('--')}", knob.name, default=None, help=text)
    metavar = "|".join(knob.choices) or METAVARS.get(knob.kind, "PATH")
    if knob.repeatable:
        return click.option(*names, multiple=True, metavar=metavar, help=text)
    return click.option(*names, default=None, metavar=metavar, help=text)


def _facts(knob: Knob) -> str:
    facts = [f"default: {knob.default_text}", "" if knob.choices else knob.range_text, knob.env]
    return "; ".join(fact for fact in facts if fact)
