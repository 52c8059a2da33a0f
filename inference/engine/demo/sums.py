"""Sums of one- and two-digit numbers, reasoned digit by digit."""

from __future__ import annotations

from random import Random

Message = dict[str, object]

PHRASINGS = (
    "What is {a} {op} {b}?",
    "{a} {op} {b}",
    "{a} {op} {b} = ?",
    "Calculate {a} {op} {b}.",
    "How much is {a} {op} {b}?",
    "Please compute {a} {op} {b}",
    "what's {a} {op} {b}",
    "{a}{op}{b}",
    "Tell me {a} {op} {b}.",
    "Can you work out {a} {op} {b}?",
)


def held_out(a: int, b: int) -> bool:
    """One pair in ten never enters a training dialogue."""
    return (7 * a + 13 * b) % 10 == 3


def draw_pair(rng: Random, *, test: bool = False) -> tuple[int, str, int]:
    """Two numbers and '+' or '-', from the training pairs or from the held-out ones."""
    while True:
        top = rng.choice((10, 100, 100))
        a, b, op = rng.randrange(top), rng.randrange(rng.choice((10, top))), rng.choice("+-")
        if held_out(a, b) is test and (op == "+" or a >= b or rng.random() < 0.3):
            return a, op, b


def result(a: int, op: str, b: int) -> int:
    """The true result."""
    return a + b if op == "+" else a - b


def _reason_sum(a: int, b: int) -> str:
    ones = a % 10 + b % 10
    carry, tens = ones // 10, a // 10 + b // 10
    steps = f"ones {a % 10}+{b % 10}={ones}"
    if a < 10 and b < 10:
        return steps
    if not carry:
        return f"{steps}, tens {a // 10}+{b // 10}={tens}"
    return f"{steps}, carry 1, tens {a // 10}+{b // 10}+1={tens + 1}"


def _reason_difference(a: int, b: int) -> str:
    if a < b:
        return f"{a} is less than {b}, so minus {b} - {a}: {_reason_difference(b, a)}"
    if a < 10:
        return f"ones {a}-{b}={a - b}"
    tens = a // 10 - b // 10
    if a % 10 >= b % 10:
        return f"ones {a % 10}-{b % 10}={a % 10 - b % 10}, tens {a // 10}-{b // 10}={tens}"
    return f"borrow, ones {a % 10 + 10}-{b % 10}={a % 10 + 10 - b % 10}, tens {a // 10}-{b // 10}-1={tens - 1}"


def drawn_facts(rng: Random, count: int) -> list[str]:
    """Single steps of such reasonings, as '7+8=15': practice for what a sum is made of."""
    facts: list[str] = []
    while len(facts) < count:
        a, op, b = draw_pair(rng)
        reasoning = _reason_sum(a, b) if op == "+" else _reason_difference(a, b)
        facts += [step for step in reasoning.rpartition(": ")[2].split(", ") if "=" in step]
    rng.shuffle(facts)
    return facts


def sum_turn(rng: Random, pair: tuple[int, str, int] | None = None) -> list[Message]:
    """A question and its answer with reasoning."""
    a, op, b = pair or draw_pair(rng)
    reasoning = _reason_sum(a, b) if op == "+" else _reason_difference(a, b)
    return [
        {"role": "user", "content": rng.choice(PHRASINGS).format(a=a, op=op, b=b)},
        {"role": "assistant", "reasoning_content": reasoning, "content": f"{a} {op} {b} = {result(a, op, b)}."},
    ]
