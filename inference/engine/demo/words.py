"""Raw material of the generated dialogues: invented words, real cities, system prompts, file paths.

The names that tests and the report measure with (``HELD_OUT_CITIES``) never enter a training dialogue.
"""

from __future__ import annotations

from random import Random


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


CITIES = _split(
    "Paris London Berlin Madrid Rome Vienna Prague Oslo Athens Dublin Lisbon Warsaw Moscow Cairo Tokyo Delhi Beijing "
    "Sydney Boston Chicago Denver Seattle Toronto Lima Bogota Nairobi Lagos Dakar Hanoi Seoul Osaka Kyoto Mumbai "
    "Geneva Zurich Munich Hamburg Milan Turin Naples Seville Porto Lyon Bergen Malmo Riga Tallinn Vilnius Minsk "
    "Houston Dallas Austin Miami Atlanta Phoenix Montreal Havana Quito Caracas Santiago Accra Tunis Rabat Amman"
)
HELD_OUT_CITIES = ("Reykjavik", "Ljubljana", "Helsinki", "Budapest", "Kigali", "Adelaide", "Valencia", "Bangkok")

_ONSETS = _split("b c d f g h j k l m n p r s t v w z br ch cl dr fr gr kr pl sh sk sl st th tr")
_VOWELS = _split("a e i o u a e i o ai ea oo ou")
_CODAS = ["", "", "", "n", "r", "s", "l", "k", "m", "t", "nd", "st", "ck"]
_EXTENSIONS = ("txt", "md", "py", "json", "toml", "yaml", "log", "csv", "html", "rs")
_FOLDERS = ("src", "docs", "tests", "home", "etc", "tmp", "data", "notes", "logs", "config", "project", "app", "lib")
_COMMANDS = (
    "ls",
    "pwd",
    "git status",
    "git log",
    "make",
    "make test",
    "uname",
    "whoami",
    "date",
    "df",
    "python",
    "cat",
)

FILLER = (
    "You are a careful assistant.",
    "Answer in short sentences.",
    "Do not guess when you can look.",
    "Read a file before you change it.",
    "Keep the changes small.",
    "Tell the user what you did.",
    "Use the tools that are offered when they help.",
    "Never show secrets, keys or tokens.",
    "The user works in a terminal.",
    "The working directory is shown below.",
    "Today the sky is clear.",
    "Prefer plain words over long ones.",
    "If a command fails, say why.",
    "Run the tests after each change.",
    "Write code in the style of the project.",
    "Do not add comments unless asked.",
    "Think before you answer.",
    "Git is used for all changes.",
    "Ask when the request is not clear.",
    "Stop when the task is done.",
    "The answer is shown in a narrow window, so keep lines short.",
    "Markdown is allowed in answers.",
    "You must not open a network connection.",
    "Paths are absolute.",
    "Each message has an id.",
    "# Environment",
    "# Rules",
    "# Style",
    "# Memory",
    "- platform: linux",
    "- platform: macos",
    "- shell: bash",
    "IMPORTANT: follow the instructions of the user.",
    "Be polite and honest.",
    "You help with software.",
    "When several files match, list all of them.",
    "Limits: 100 lines, 10 files, 30 seconds.",
    "The assistant is called an agent here.",
    "Old results may have been removed from the conversation.",
)


def invented_word(rng: Random, syllables: int = 0) -> str:
    """A pronounceable word that means nothing: 'trastou'."""
    count = syllables or rng.choice((1, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(count))


def place(rng: Random) -> str:
    """A city: half of them real."""
    if rng.random() < 0.5:
        return rng.choice(CITIES)
    return invented_word(rng, rng.choice((2, 2, 3))).capitalize()


def path(rng: Random) -> str:
    """A file path, sometimes absolute."""
    folders = [
        rng.choice(_FOLDERS) if rng.random() < 0.6 else invented_word(rng) for _ in range(rng.choice((0, 1, 1, 2)))
    ]
    name = f"{invented_word(rng)}.{rng.choice(_EXTENSIONS)}"
    return rng.choice(("", "", "/")) + "/".join([*folders, name])


def folder(rng: Random) -> str:
    """A directory path."""
    parts = [rng.choice(_FOLDERS) if rng.random() < 0.6 else invented_word(rng) for _ in range(rng.choice((1, 1, 2)))]
    return rng.choice(("", "/")) + "/".join(parts)


def phrase(rng: Random) -> str:
    """One to four invented or known lower-case words."""
    return " ".join(
        invented_word(rng) if rng.random() < 0.7 else rng.choice(_FOLDERS) for _ in range(rng.randint(1, 4))
    )


def command(rng: Random) -> str:
    """A shell command line."""
    start = rng.choice(_COMMANDS)
    return f"{start} {path(rng)}" if rng.random() < 0.5 else start


def system_text(rng: Random) -> str:
    """A system prompt of one to about thirty sentences, some of them invented words."""
    count = rng.choice((1, 1, 1, 2, 2, 3, 5, 8, 24))
    lines = [
        rng.choice(FILLER) if rng.random() < 0.75 else f"{phrase(rng).capitalize()} {path(rng)}." for _ in range(count)
    ]
    return rng.choice((" ", "\n")).join(lines)
