"""`mlxd manage`: Django's management commands, with mlxd's settings."""

from __future__ import annotations

import os

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def manage(arguments: tuple[str, ...]) -> None:
    """Run one of Django's management commands, e.g. `mlxd manage check`. `MLXD_STATE_DIR` chooses the state."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mlxd.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(["mlxd manage", *arguments])
