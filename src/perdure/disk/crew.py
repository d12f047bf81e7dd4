"""Threads that work for another thread, which a ctrl-C may interrupt at any moment without anything hanging.

The executors of the standard library take Python locks in the thread that hands out the work; an interrupt at the wrong
moment leaves such a lock held for ever. Here that thread touches only `queue.SimpleQueue`, whose calls are atomic.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue

Job = Callable[[], None]
Outcome = SimpleQueue["BaseException | None"]
"""Where a job's error, or None, will be."""

_POLL_SECONDS = 0.05


class Crew:
    """Some threads that do jobs in the order in which they are handed out; a context manager that waits for them.

    Where the system gives fewer threads than were asked for, those that started do all; where it gives none, whoever
    hands out a job does it.
    """

    _n_threads = 0

    def __init__(self, n_threads: int) -> None:
        self._n_wanted = n_threads
        self._work = _Work()

    def __del__(self) -> None:
        """Tell the threads to go, where an interrupt came before anything else could."""
        for _ in range(self._n_threads):
            self._work.jobs.put(None)

    def __enter__(self) -> Crew:
        try:
            for _ in range(self._n_wanted):
                _thread.start_new_thread(self._work.run, ())
                self._n_threads += 1
        except (RuntimeError, MemoryError):  # "can't start new thread"
            pass
        except BaseException:
            self._work.jobs.put(None)  # for one that an interrupt kept from being counted
            self.__exit__(None, None, None)
            raise
        return self

    def submit(self, job: Job) -> Outcome:
        """Hand out a job; where there is no thread, it is done before this returns, and its error raised here."""
        outcome: Outcome = SimpleQueue()
        if self._n_threads:
            self._work.jobs.put((job, outcome))
        else:
            job()
            outcome.put(None)
        return outcome

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Wait until all threads are gone, however often that is interrupted; jobs not begun by then are left out."""
        self._work.stopping = True
        interrupt: KeyboardInterrupt | None = None
        told = 0
        while len(self._work.gone) < self._n_threads:
            try:
                while told < self._n_threads:
                    told += 1
                    self._work.jobs.put(None)
                self._work.woken.get(timeout=_POLL_SECONDS)
            except Empty:
                continue
            except KeyboardInterrupt as again:
                interrupt = again
                told = 0  # one may have been counted and not told; to tell them too often does no harm
        if interrupt:
            raise interrupt


class _Work:
    """What the threads of a crew share. They do not hold the crew itself, so that it can be seen when that is given up."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[tuple[Job, Outcome] | None] = SimpleQueue()
        self.gone: list[int] = []
        self.woken: SimpleQueue[None] = SimpleQueue()
        self.stopping = False

    def run(self) -> None:
        """Do jobs until told to go."""
        while (item := self.jobs.get()) is not None:
            self._do(*item)
            del item
        self.gone.append(1)
        self.woken.put(None)

    def _do(self, job: Job, outcome: Outcome) -> None:
        try:
            if not self.stopping:
                job()
        except BaseException as error:  # goes to whoever waits for the job
            outcome.put(error)
        else:
            outcome.put(None)


def finish(outcomes: Iterable[Outcome]) -> None:
    """Wait for jobs, and raise the first error of theirs."""
    for outcome in outcomes:
        error = outcome.get()
        if error is not None:
            raise error


def run_in_threads(jobs: list[Job], n_threads: int) -> None:
    """Run jobs in their order, several at a time; the first error stops those that have not begun, and is raised."""
    with Crew(min(n_threads, max(1, len(jobs)))) as crew:
        finish([crew.submit(job) for job in jobs])
