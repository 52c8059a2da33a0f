"""Scenarios with tools, in the shapes that agents give their requests: what drifts, what is dropped, what is respelled.

Everything is made up, and the same in every run. An agent keeps its own history and changes it between requests.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Final

from mlxd.probe.asks import Ask, Message, Play, Said, Wave
from mlxd.probe.content import prose
from mlxd.probe.echo import CLIENTS, Echo, dropped, sorted_compact
from mlxd.probe.forced import THOUGHT

FIRST_DAY: Final = date(2026, 3, 2)


def tool(name: str, **properties: str) -> dict[str, Any]:
    """A function whose parameters are all required; the values are their JSON types."""
    schema = {
        "type": "object",
        "properties": {
            key: {"type": kind, "description": prose(f"{name} {key}", 8)} for key, kind in properties.items()
        },
        "required": list(properties),
    }
    return {
        "type": "function",
        "function": {"name": name, "description": prose(f"what {name} does", 30), "parameters": schema},
    }


TOOLS: Final = (
    tool("bash", command="string"),
    tool("read", path="string", limit="number"),
    tool("write", path="string", content="string"),
    tool("edit", path="string", old="string", new="string"),
)
LOOK: Final = Said(calls=(("bash", '{"command": "ls -la"}'),))
READ: Final = Said("\n\nLet me read it. \n", (("read", '{ "limit" : 50.0 , "path" : "/srv/orchard/pear.py" }'),))
WRITE: Final = Said(calls=(("write", '{"path":"\\/srv\\/orchard\\/caf\\u00e9.txt","content":"<b>x<\\/b>\\n"}'),))
BOTH: Final = Said(
    calls=(
        ("read", '{\n  "path": "/srv/orchard/pear.py",\n  "limit": 50\n}'),
        ("bash", '{"command":"git status"}'),
    )
)
DONE: Final = Said("\n\nAll is done; the **orchard** stands.\n")

type Step = Generator[Wave, Sequence[Message], Message]


def keep(messages: tuple[Message, ...], request: int) -> tuple[Message, ...]:
    return messages


@dataclass(slots=True)
class Agent:
    """One session. `history` is what the server said and was told; `drift` makes of it what is sent, request by
    request."""

    session: str
    history: list[Message]
    echo: Echo
    drift: Callable[[tuple[Message, ...], int], tuple[Message, ...]] = keep
    tools: Sequence[dict[str, Any]] = TOOLS
    requests: int = field(default=0)

    def ask(self, said: Said) -> Step:
        """One request that is to be answered so; its answer, which is in the history."""
        meant = self.drift(tuple(self.history), self.requests)
        sent = tuple(self._echoed(message) for message in meant)
        self.requests += 1
        (answer,) = yield [Ask(self.session, sent, meant, {"tools": [*self.tools], **THOUGHT}, said)]
        self.history.append(answer)
        return answer

    def call(self, said: Said, *results: str) -> Generator[Wave, Sequence[Message], None]:
        """One step of a tool loop: the calls and their results; where none were made, the results are told."""
        answer = yield from self.ask(said)
        calls = answer.get("tool_calls") or ()
        for call, result in zip(calls, results, strict=False):
            self.history.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        if not calls:
            self.history.append({"role": "user", "content": "\n".join(results)})

    def tell(self, content: Any) -> None:
        self.history.append({"role": "user", "content": content})

    def _echoed(self, message: Message) -> Message:
        if message["role"] == "tool":
            return message | {"tool_call_id": self.echo.call_id(message["tool_call_id"])}
        return self.echo.of(message) if message["role"] == "assistant" else message


def drift() -> Play:
    """A date in the system prompt that changes with every turn, a billing line with every request, message ids that
    are given anew each time, and reminders of the time of day."""

    def drifting(messages: tuple[Message, ...], request: int) -> tuple[Message, ...]:
        turns = sum(message["role"] == "user" for message in messages)
        day = FIRST_DAY + timedelta(days=turns)
        head = f"x-anthropic-billing-header: cc_version=1.0.0.{request:03x}; cc_entrypoint=cli;\n"
        system = f"{head}{prose('drift', 500)}\nCurrent date: {day}\n{prose('drifting', 200)}"
        told = [_with_id(message, f"{request}-{at}") for at, message in enumerate(messages)]
        return ({"role": "system", "content": system}, *told)

    agent = Agent("drift", [], Echo(), drifting)
    for turn in range(6):
        reminder = f"<system-reminder>\nCurrent time: {9 + turn}:{7 * turn:02d}\n</system-reminder>"
        words = [reminder, prose(f"drift {turn}", 60)]
        agent.tell([{"type": "text", "text": one} for one in words])
        yield from agent.call(LOOK, prose(f"drift result {turn}", 500))
        yield from agent.ask(DONE)


def _with_id(message: Message, number: str) -> Message:
    """A user's message as it comes from a channel: its last line is an id."""
    if message["role"] != "user" or isinstance(message["content"], str):
        return message
    *parts, last = message["content"]
    return message | {"content": [*parts, last | {"text": f"{last['text']}\n[message_id: {number}]"}]}


def stripped() -> Play:
    """The client drops what the model thought, and writes every call's arguments anew, in the order of the alphabet."""
    agent = Agent("stripped", [{"role": "system", "content": prose("stripped", 600)}], Echo(sorted_compact, dropped))
    for turn in range(3):
        agent.tell(prose(f"stripped {turn}", 60))
        for said in (READ, WRITE):
            yield from agent.call(said, prose(f"stripped {turn} {said.calls[0][0]}", 120))
        yield from agent.ask(DONE)


def pi() -> Play:
    """A coding agent in the manner of PI: a `developer` prompt that ends with date and directory, loops of calls, two
    at once among them, arguments as JavaScript writes them; then the same session is taken up again."""
    ending = f"Current date: {FIRST_DAY}\nCurrent working directory: /srv/orchard"
    history = [{"role": "developer", "content": f"{prose('pi', 350)}\n\n{ending}"}]
    agent = Agent("pi", history, CLIENTS["pi"])
    for task in range(2):
        agent.tell(prose(f"pi {task}", 40))
        for step, said in enumerate((LOOK, READ, WRITE, BOTH)):
            results = [prose(f"pi {task} {step} {at}", 90) for at in range(len(said.calls))]
            yield from agent.call(said, *results)
        yield from agent.ask(DONE)
