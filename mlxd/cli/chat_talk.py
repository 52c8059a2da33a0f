"""A conversation in the terminal: turns, the reset, and what Ctrl-C means when."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field

import click

from mlxd.cli.chat_keys import RESET
from mlxd.cli.chat_screen import Answer, Screen
from mlxd.cli.chat_stream import ChatError, ChatServer, request_body

IMAGE_PREFIX = "image:"
IMAGES_LATER = "Images cannot be sent yet; `image:/path` is kept for them. Nothing was sent."
HELP = "Ctrl-N or /new: new conversation · Ctrl-C: stop the answer, twice: quit · Ctrl-D or /quit: quit"


@dataclass(slots=True)
class Talk:
    """What was said, and how to go on. `show_speed` prints latency and tok/s after each answer."""

    server: ChatServer
    screen: Screen
    model: str
    system: str | None = None
    max_tokens: int | None = None
    show_speed: bool = False
    messages: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets everything but the system message."""
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def ask(self, text: str) -> bool:
        """One turn; False if it was stopped by Ctrl-C. Raises `ChatError`, and then the turn is forgotten.

        A stopped answer stays in the conversation as far as it came, so that one can say "go on".
        """
        if text.lstrip().startswith(IMAGE_PREFIX):
            raise ChatError(IMAGES_LATER)
        turn = [*self.messages, {"role": "user", "content": text}]
        answer, finished = Answer(), True
        try:
            with closing(self.server.answer(request_body(self.model, turn, self.max_tokens))) as parts:
                self.screen.show(parts, answer)
        except KeyboardInterrupt:
            finished = False
        if answer.content or finished:
            self.messages = [*turn, {"role": "assistant", "content": answer.content}]
        if self.show_speed:
            click.secho(f"{'' if finished else 'stopped · '}{answer.summary()}", dim=True, err=True)
        return finished


def converse(talk: Talk, read: Callable[[str], str]) -> None:
    """Turns until the end of input, `/quit`, or two Ctrl-C in a row (the one that stops an answer counts)."""
    interrupted = False
    with suppress(EOFError, KeyboardInterrupt):  # a Ctrl-C while the one before is being answered is the second
        while True:
            try:
                line = read("> ").strip()
                if line == "/quit":
                    return
                interrupted = not _take(talk, line)
            except ChatError as error:
                click.echo(f"mlxd: {error}", err=True)
            except KeyboardInterrupt:
                click.echo(err=True)
                if interrupted:
                    return
                interrupted = True
                click.secho("Ctrl-C again to quit", dim=True, err=True)


def _take(talk: Talk, line: str) -> bool:
    match line:
        case "":
            return True
        case "/help":
            click.echo(HELP, err=True)
            return True
        case line if line == RESET:
            talk.reset()
            click.secho("new conversation", dim=True, err=True)
            return True
        case _:
            return talk.ask(line)
