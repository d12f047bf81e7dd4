"""Work on many images in threads: results come in order, few are ahead, and nothing is left running."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from perdure.disk.crew import Crew, Outcome, finish

Task = TypeVar("Task")
Result = TypeVar("Result")

_AHEAD = 2
"""How many tasks wait or are done and not yet fetched, for each thread."""


def in_order(work: Callable[[Task], Result], tasks: Iterable[Task], n_threads: int) -> Iterator[Result]:
    """Yield what `work` makes of each task, as `map` does.

    Tasks are taken from their iterator as they are needed, in the calling thread. Whatever ends the iteration (an error of
    one, ctrl-C, the caller's leaving) leaves out what has not begun and waits for what has.
    """
    if n_threads == 1:
        yield from map(work, tasks)
        return
    waiting: deque[_Ticket[Result]] = deque()
    with Crew(n_threads) as crew:
        for task in tasks:
            waiting.append(_submitted(crew, work, task))
            if len(waiting) >= _AHEAD * n_threads:
                yield _fetched(waiting.popleft())
        while waiting:
            yield _fetched(waiting.popleft())


_Ticket = tuple[Outcome, list[Result]]


def _submitted(crew: Crew, work: Callable[[Task], Result], task: Task) -> _Ticket[Result]:
    results: list[Result] = []
    return crew.submit(lambda: results.append(work(task))), results


def _fetched(ticket: _Ticket[Result]) -> Result:
    outcome, results = ticket
    finish([outcome])
    return results.pop()
