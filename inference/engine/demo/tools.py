"""Dialogues in which a tool is offered: pick it, copy the argument from the question, answer from the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from inference.engine.demo import words

Message = dict[str, object]
Tool = dict[str, object]


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of tool: its possible names and parameters, how users ask for it, what it returns."""

    names: tuple[str, ...]
    params: tuple[str, ...]
    description: str
    questions: tuple[str, ...]
    draw_value: Callable[[Random], str]
    draw_result: Callable[[Random], str]


def _weather(rng: Random) -> str:
    return f"{rng.randrange(40)} degrees, {rng.choice(('sunny', 'cloudy', 'rain', 'snow', 'windy', 'clear', 'fog'))}"


def _listing(rng: Random) -> str:
    return "\n".join(words.path(rng).rsplit("/", 1)[-1] for _ in range(rng.randint(1, 3)))


def _clock(rng: Random) -> str:
    return f"{rng.randrange(24)}:{rng.randrange(60):02d}"


FAMILIES = (
    Family(
        ("get_weather", "weather", "current_weather", "getWeather", "weather_lookup"),
        ("city", "location", "place"),
        "Get the weather of a city",
        (
            "What is the weather in {v}?",
            "How is the weather in {v}?",
            "weather in {v}",
            "Is it raining in {v}?",
            "Tell me the weather for {v}.",
            "Do I need an umbrella in {v}?",
            "How warm is it in {v} today?",
        ),
        words.place,
        _weather,
    ),
    Family(
        ("read_file", "read", "Read", "open_file", "cat_file"),
        ("path", "file_path", "file", "filePath"),
        "Read a file",
        (
            "Read the file {v}",
            "Open {v}",
            "What is in {v}?",
            "Show me the file {v}.",
            "read {v} please",
            "Please read {v}",
            "Print the content of {v}",
        ),
        words.path,
        words.phrase,
    ),
    Family(
        ("search", "web_search", "grep", "Grep", "find_text"),
        ("query", "pattern", "q"),
        "Search for a text",
        ("Search for {v}", "Find {v}", "search {v}", "Look for {v}", "Can you search for {v}", "Please look up {v}"),
        words.phrase,
        words.phrase,
    ),
    Family(
        ("list_files", "list_directory", "ls", "list_dir", "listFiles"),
        ("directory", "path", "dir"),
        "List the files of a directory",
        (
            "List the files in {v}",
            "What files are in {v}?",
            "Which files are in the directory {v}?",
            "list {v}",
            "Show the directory {v}",
            "Please list the directory {v}",
        ),
        words.folder,
        _listing,
    ),
    Family(
        ("run_command", "bash", "Bash", "shell", "execute_command", "exec"),
        ("command", "cmd"),
        "Run a shell command",
        (
            "Run {v}",
            "Run the command {v}",
            "Execute {v}",
            "Please run {v}",
            "run {v} in the shell",
            "Start the command {v}",
        ),
        words.command,
        words.phrase,
    ),
    Family(
        ("get_time", "current_time", "clock", "time_in"),
        ("city", "timezone", "place"),
        "Get the time in a city",
        ("What time is it in {v}?", "Tell me the time in {v}.", "time in {v}", "How late is it in {v}?"),
        words.place,
        _clock,
    ),
)

ANSWERS = {"weather": "The weather in {v}: {r}.", "time": "The time in {v}: {r}."}


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as offered in one dialogue."""

    family: Family | None
    name: str
    param: str
    schema: Tool


def _schema(rng: Random, name: str, param: str, description: str) -> Tool:
    prop: dict[str, object] = {"type": "string"}
    if rng.random() < 0.3:
        prop["description"] = f"The {param}"
    parameters: dict[str, object] = {"type": "object", "properties": {param: prop}}
    if rng.random() < 0.7:
        parameters["required"] = [param]
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def make_offer(rng: Random, family: Family | None) -> Offer:
    """Offer a tool of this family; of None, a tool with an invented name."""
    if family is None:
        name = "_".join(words.invented_word(rng) for _ in range(rng.choice((1, 2, 2))))
        param, about = words.invented_word(rng), words.phrase(rng)
    else:
        name, param, about = rng.choice(family.names), rng.choice(family.params), family.description
    return Offer(family, name, param, _schema(rng, name, param, about))


def draw_offers(rng: Random) -> list[Offer]:
    """One to four different tools in random order."""
    families: list[Family | None] = [*rng.sample(FAMILIES, rng.choice((1, 1, 2, 2, 2, 3, 4)))]
    if rng.random() < 0.3:
        families[rng.randrange(len(families))] = None
    return [make_offer(rng, family) for family in families]


def _ask(rng: Random, offer: Offer) -> tuple[str, str, str]:
    """(question, argument value, result)"""
    if offer.family is None:
        value = rng.choice((words.place, words.path, words.phrase, words.invented_word))(rng)
        how = rng.choice(("Call {n} with {v}", "Use {n} on {v}", "Use the tool {n} with {v}", "{n} {v}"))
        return how.format(n=offer.name, v=value), value, words.phrase(rng)
    value = offer.family.draw_value(rng)
    return rng.choice(offer.family.questions).format(v=value), value, offer.family.draw_result(rng)


def _answer(offer: Offer, value: str, result: str) -> str:
    about = offer.family.description.split()[2] if offer.family else ""
    return ANSWERS.get(about, "The result of {n}: {r}").format(v=value, r=result, n=offer.name)


def tool_turn(rng: Random, offers: list[Offer]) -> list[Message]:
    """A question, the call; in half of the turns also the tool's result and the answer from it."""
    offer = rng.choice(offers)
    question, value, result = _ask(rng, offer)
    call = {"type": "function", "function": {"name": offer.name, "arguments": {offer.param: value}}}
    turn: list[Message] = [
        {"role": "user", "content": question},
        {"role": "assistant", "reasoning_content": f"I call {offer.name}.", "content": "", "tool_calls": [call]},
    ]
    if rng.random() < 0.5:
        turn.append({"role": "tool", "content": result})
        answer = _answer(offer, value, result)
        turn.append({"role": "assistant", "reasoning_content": f"The tool {offer.name} answered.", "content": answer})
    return turn
