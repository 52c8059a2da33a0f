"""`mlxd open`: the status page in a browser, signed in by a code that is good for one browser and one minute."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import click

from mlxd.cli.admin_api import ask, running
from mlxd.cli.options import state_dir_option
from mlxd.paths import StateDir, resolve_state_dir
from mlxd.start_errors import StartError


@click.command("open")
@click.option("--print", "only_print", is_flag=True, help="Print the address and open nothing.")
@state_dir_option
def open_(only_print: bool, state_dir: str | None) -> None:
    """Open the status page in a browser. Where there is none, the address is printed: it works once, for a minute."""
    state = StateDir(resolve_state_dir(state_dir, os.environ))
    daemon = running(state)
    told = None if daemon is None else ask(state, "POST", "/api/login/code", {})
    if daemon is None or told is None:
        raise StartError("No mlxd runs on this state directory.", cure="Start it: mlxd serve --demo")
    url = f"{daemon.url}/login#{told['code']}"
    watched = is_watched(sys.platform)
    if only_print or watched or not has_screen(os.environ, sys.platform) or not _opened(url):
        click.echo(url)
        why = " Open it yourself: others here could read it from the browser's command line." if watched else ""
        click.echo(f"It signs one browser in, within a minute.{why}", err=True)
    else:
        click.echo(f"{daemon.url} is open in your browser.")


def has_screen(environ: Mapping[str, str], platform: str) -> bool:
    """Whether a browser with windows can be shown where this command was typed."""
    if environ.get("SSH_CONNECTION"):
        return False
    return platform == "darwin" or bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def is_watched(platform: str) -> bool:
    """Whether somebody else could see the address on its way to the browser and be there first. Elsewhere than on a Mac
    it is an argument of a command, which everybody who has an account can list. Blocks."""
    from mlxd.config.people import count_people

    return platform != "darwin" and count_people(platform) > 1


def _opened(url: str) -> bool:
    import webbrowser

    try:
        return webbrowser.open(url)
    except (webbrowser.Error, OSError):
        return False
