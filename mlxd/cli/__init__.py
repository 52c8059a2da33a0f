"""The command line. A command's module is imported when it runs, so `--help` costs neither pydantic, Django nor MLX."""

from __future__ import annotations

import importlib
import sys

import click

from mlxd import __version__
from mlxd.start_errors import StartError

COMMANDS = {
    "serve": ("mlxd.cli.serve:serve", "Serve models to clients of the OpenAI API."),
    "chat": ("mlxd.cli.chat:chat", "Talk to a model in the terminal."),
    "models": ("mlxd.cli.models:models", "List the models on this machine."),
    "config": ("mlxd.cli.settings:config", "Show every setting, its value and where it comes from."),
    "doctor": ("mlxd.cli.doctor:doctor", "Check this machine and say what to do about what is wrong."),
    "probe": ("mlxd.cli.probe:probe", "Measure how many tokens a server computes twice."),
    "cache": ("mlxd.cli.cache:cache", "List, count, check, carry or remove what is stored of prompts."),
    "open": ("mlxd.cli.open:open_", "Open the status page in a browser."),
    "token": ("mlxd.cli.token:token", "Change the admin token."),
    "keys": ("mlxd.cli.keys:keys", "Make, list and remove API keys."),
    "manage": ("mlxd.cli.manage:manage", "Run one of Django's management commands."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="mlxd %(version)s")
def cli() -> None:
    """mlxd serves local MLX models to coding agents.

    Start with `mlxd serve --demo`, then `mlxd chat` in another terminal.
    """


def main() -> None:
    """The console script. Exit code 2 means mlxd could not start as asked; the reason and a cure are on stderr."""
    try:
        cli()
    except StartError as error:
        click.echo(f"mlxd: {error.message}", err=True)
        if error.cure:
            click.echo(f"      {error.cure}", err=True)
        sys.exit(error.exit_code)
