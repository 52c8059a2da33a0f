"""Long work on the disk's thread, in steps: between two of them comes what others wait for."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial


def take_step[Answer](
    steps: Generator[None, None, Answer],
    future: Future[Answer],
    order: Callable[[Callable[[], object]], None],
) -> None:
    """One step, and an order for the next; the answer or the error of the last goes into the future.

    The work ends where the future is cancelled.
    """
    if future.cancelled():
        return steps.close()
    with suppress(InvalidStateError):  # cancelled just now
        try:
            next(steps)
        except StopIteration as done:
            return future.set_result(done.value)
        except Exception as error:
            return future.set_exception(error)
    return order(partial(take_step, steps, future, order))
