"""Events handed on to all who watch a run; none of them can fail it or hold it up."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from shiftbench.errors import ShiftBenchError
from shiftbench.watch.events import Event, Observer

ROOM = 10_000  # events that wait for an observer in a thread of its own
CLOSE_SECONDS = 5.0  # that all of them together have at the end of a run
LEAST_FIRST = ("tick", "begin", "retry", "end", "warning")  # what an observer that is too slow is not told

Rows = Sequence[Mapping[str, Any]]


class Watch:
    """An observer that tells others.

    An observer may have two methods beside its call: `table(rows)` is handed the leaderboard, `close()` ends it. One
    that raises is named in a warning to the others, once, and is told nothing more.

    Args:
        observers: called here, in this order, with every event.
        apart: each called in a thread of its own, so that one that blocks holds nothing up. Events wait for it as far
            as there is room; then ticks are left out first.
    """

    def __init__(self, observers: Sequence[Observer] = (), apart: Sequence[Observer] = ()):
        self._posts: list[Post] = [*(Here(one) for one in observers), *(Apart(one) for one in apart)]
        self._last: Event | None = None

    def __call__(self, event: Event) -> None:
        self._last = event
        self._tell(event)
        self._leave_out_the_broken()

    def table(self, rows: Rows) -> None:
        """Hands the leaderboard, a mapping per line, to those who want it."""
        for post in self._posts:
            post.send("table", rows)
        self._leave_out_the_broken()

    def close(self) -> None:
        """Ends all observers, the last one first, so that those before it hear what was wrong with it."""
        until = time.monotonic() + CLOSE_SECONDS
        while self._posts:
            post = self._posts.pop()
            for words in post.close(max(0.0, until - time.monotonic())):
                self._warn(words)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self, event: Event) -> None:
        for post in self._posts:
            post.send("event", event)

    def _leave_out_the_broken(self) -> None:
        while broken := [post for post in self._posts if post.fault]:
            self._posts = [post for post in self._posts if not post.fault]
            for post in broken:
                self._warn(f"{post.name} is left out from here on: {post.fault}; the run goes on")

    def _warn(self, words: str) -> None:
        if not self._posts:  # nobody is left to tell people
            with contextlib.suppress(Exception):
                print(f"note: {words}", file=sys.stderr, flush=True)
        elif self._last is not None:
            now = {"kind": "warning", "task": None, "outcome": None, "words": words, "at": time.time()}
            self._tell(Event(**{**vars(self._last), **now}))


class Post(Protocol):
    """How an observer is reached; `fault` is what it raised, if anything."""

    name: str
    fault: str

    def send(self, what: str, content: Any) -> None:
        """Tells it of an "event", or hands it a "table"."""

    def close(self, seconds: float) -> list[str]:
        """Ends it within that time; what people are to be told of it."""


class Here:
    """An observer that is called by the run itself."""

    def __init__(self, observer: Observer):
        self.observer, self.name, self.fault = observer, name_of(observer), ""

    def send(self, what: str, content: Any) -> None:
        if not self.fault:
            try:
                hand(self.observer, what, content)
            except Exception as error:
                self.fault = said_by(error)

    def close(self, seconds: float) -> list[str]:
        self.send("close", None)
        return [f"{self.name} could not be ended: {self.fault}"] if self.fault else []


class Apart:
    """An observer in a thread of its own, with a queue of at most ROOM events before it."""

    def __init__(self, observer: Observer):
        self.observer, self.name, self.fault, self.lost = observer, name_of(observer), "", 0
        self._queue: deque[tuple[str, Any]] = deque()
        self._filled = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"watch-{self.name}", daemon=True)
        self._thread.start()

    def send(self, what: str, content: Any) -> None:
        with self._filled:
            if what == "event" and content.kind == "tick" and self._queue and _is(self._queue[-1], "tick"):
                self._queue.pop()  # the newer one says all
            if what == "event" and len(self._queue) >= ROOM:
                self._make_room()
            self._queue.append((what, content))
            self._filled.notify()

    def close(self, seconds: float) -> list[str]:
        if self.fault:
            return [f"{self.name} could not be ended: {self.fault}"]
        self.send("close", None)
        self._thread.join(seconds)
        words = []
        if self._thread.is_alive():
            words.append(f"{self.name} did not end in time and is left behind; what it was told last may be missing")
        elif self.fault:
            words.append(f"{self.name} could not be ended: {self.fault}")
        if self.lost:
            words.append(f"{self.name} was too slow and was not told of {self.lost} events")
        return words

    def _make_room(self) -> None:
        """Takes out a tenth, so that an observer that blocks costs little per event: what says least, oldest first."""
        for kind in LEAST_FIRST:
            excess = len(self._queue) - ROOM * 9 // 10
            kept: deque[tuple[str, Any]] = deque()
            for waiting in self._queue:
                if excess > 0 and _is(waiting, kind):
                    excess -= 1
                    self.lost += kind != "tick"
                else:
                    kept.append(waiting)
            self._queue = kept

    def _work(self) -> None:
        what = ""
        while what != "close":
            with self._filled:
                self._filled.wait_for(lambda: self._queue)
                what, content = self._queue.popleft()
            try:
                hand(self.observer, what, content)
            except BaseException as error:  # in this thread nothing else is there to end, a `sys.exit` included
                self.fault = said_by(error)
                return


def _is(waiting: tuple[str, Any], kind: str) -> bool:
    what, content = waiting
    return what == "event" and content.kind == kind


def hand(observer: Observer, what: str, content: Any) -> None:
    """Calls an observer with an event, or its method `table` or `close` where it has one."""
    if what == "event":
        observer(content)
        return
    method: Callable[..., object] | None = getattr(observer, what, None)
    if method is not None:
        method() if what == "close" else method(content)


def name_of(observer: Observer) -> str:
    """What people call an observer: its `name`, or that of its class or function."""
    return str(getattr(observer, "name", "") or getattr(observer, "__name__", type(observer).__name__))


def said_by(error: BaseException) -> str:
    """An error as one line; one of ours is a sentence already."""
    if isinstance(error, ShiftBenchError):
        return str(error).rstrip(".")
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.;')}" if lines else type(error).__name__
