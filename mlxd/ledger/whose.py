"""What is known of a request besides its content."""

from __future__ import annotations

from dataclasses import dataclass

from inference.conversation.turns import ThinkTags


@dataclass(frozen=True, slots=True)
class Whose:
    """Who asks, in which session as `turn_chain.Asked` means it, for how many answers.

    `think` are the markers between which the model thinks.
    """

    owner: str = ""
    session: str = ""
    named: bool = False
    one_shot: bool = False
    choices: int = 1
    think: ThinkTags | None = None
