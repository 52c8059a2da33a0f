"""`mlxd chat`: a conversation in the terminal with mlxd or any other server of the OpenAI chat API."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import click

from mlxd.cli.chat_keys import line_reader
from mlxd.cli.chat_screen import Screen, wants_colour
from mlxd.cli.chat_stream import ChatError, ChatServer, complete_base_url
from mlxd.cli.chat_talk import HELP, Talk, converse
from mlxd.cli.options import state_dir_option
from mlxd.config import BY_NAME
from mlxd.start_errors import StartError

PROOF_S = 10.0
"""The daemon answers between two steps of its work."""


@click.command()
@click.option("-p", "--prompt", help="Ask this, print the answer and end; `-` reads it from stdin.")
@click.option("--base-url", help="Server to talk to.  [default: the mlxd on this machine]")
@click.option("-m", "--model", help="Model to ask for.  [default: the first the server lists]")
@click.option("--system", help="System message to begin with.")
@click.option(
    "--max-new-tokens", "--max_new_tokens", type=click.IntRange(1), help="Longest answer.  [default: the server's]"
)
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File that holds the server's key.")
@click.option("-v", "--verbose", is_flag=True, help="Show speed and thinking where they are left out: when piped.")
@state_dir_option
def chat(
    prompt: str | None,
    base_url: str | None,
    model: str | None,
    system: str | None,
    max_new_tokens: int | None,
    api_key_file: Path | None,
    verbose: bool,
    state_dir: str | None,
) -> None:
    """Talk to a model in the terminal.

    Ctrl-N starts a new conversation, Ctrl-C stops an answer, twice quits. Piped in, each line is one turn.
    """
    forgive_encodings()
    on_screen = sys.stdout.isatty()
    screen = Screen(sys.stdout, wants_colour(sys.stdout), show_thinking=on_screen or verbose)
    show_speed = verbose or (on_screen and prompt is None)
    try:
        key = read_key(api_key_file)
        if key and base_url is None:
            prove_local(state_dir)
        with ChatServer.at(complete_base_url(base_url or local_url(state_dir)), key) as server:
            talk = Talk(server, screen, model or server.first_model(), system, max_new_tokens, show_speed)
            if prompt is not None:
                sys.exit(0 if talk.ask(sys.stdin.read() if prompt == "-" else prompt) else 130)
            if on_screen:
                click.secho(f"{talk.model} at {server.base_url}\n{HELP}", dim=True, err=True)
            converse(talk, line_reader())
    except ChatError as error:
        raise StartError(str(error)) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough


def forgive_encodings() -> None:
    """A file of another encoding in a pipe (`git diff`), or a terminal without a model's characters, ends nothing."""
    if sys.stdin is None:  # closed
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - as long as the process
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def local_url(state_dir: str | None) -> str:
    """Where the daemon of the state directory listens, else where one would by default."""
    from mlxd.instance import find_running
    from mlxd.paths import StateDir, resolve_state_dir

    running = find_running(StateDir(resolve_state_dir(state_dir, os.environ)))
    port = os.environ.get(BY_NAME["port"].env) or BY_NAME["port"].default
    return running.url if running and running.url else f"http://127.0.0.1:{port}"


def prove_local(state_dir: str | None) -> None:
    """Has the mlxd of the state directory show itself, before it is sent a key that nobody said where to send. Raises
    `StartError`."""
    import httpx

    from mlxd.cli.admin_api import prove
    from mlxd.paths import StateDir, resolve_state_dir

    url = local_url(state_dir)
    try:
        with httpx.Client(base_url=url, trust_env=False, timeout=PROOF_S) as client:
            prove(client, StateDir(resolve_state_dir(state_dir, os.environ)))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        raise StartError(f"No mlxd answers at {url}.", cure="Start it, or say --base-url for another server.") from None


def read_key(path: Path | None) -> str:
    """A key comes from a file only: arguments and variables are visible to others."""
    if path is None:
        return ""
    try:
        key = path.expanduser().read_text(errors="replace").strip()
    except OSError as error:
        raise StartError(f"--api-key-file {path}: {error.strerror}.") from None
    if not (key.isascii() and key.isprintable()):
        raise StartError(f"--api-key-file {path} holds no key: one line of ASCII.")
    return key
