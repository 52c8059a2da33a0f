"""`mlxd token`: the admin token's change. It is never printed: it stands in a file only its owner can read."""

from __future__ import annotations

import os

import click

from mlxd.cli.admin_api import ask
from mlxd.cli.options import state_dir_option
from mlxd.paths import harden_process, new_admin_token, open_state_dir, resolve_state_dir


@click.group()
def token() -> None:
    """Change the admin token."""


@token.command()
@state_dir_option
def rotate(state_dir: str | None) -> None:
    """Put a fresh admin token in the place of the old one, which opens nothing from then on.

    Browsers that are signed in are signed out. Keys stay as they are.
    """
    harden_process()
    state = open_state_dir(resolve_state_dir(state_dir, os.environ))
    told = ask(state, "POST", "/api/token/rotate", {})
    if told is None:
        from mlxd.instance import claim

        with claim(state):
            new_admin_token(state.admin_token)  # what a browser's cookie holds is good with its own token only
    signed_out = told["signed_out"] if told is not None else 0
    also = f" {signed_out} browser{'s' if signed_out > 1 else ''} signed out." if signed_out else ""
    click.echo(f"The admin token is a new one, in {state.admin_token}.{also}")
