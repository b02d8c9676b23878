"""In which order a graph of tasks is done."""

from __future__ import annotations

from collections.abc import Mapping

from shiftbench.graph import Task


def followers_of(tasks: Mapping[str, Task]) -> dict[str, list[str]]:
    """Per task, those of `tasks` that need it, each once."""
    followers: dict[str, list[str]] = {name: [] for name in tasks}
    for name, task in tasks.items():
        for need in dict.fromkeys(task.needs):
            if need in followers:
                followers[need].append(name)
    return followers


def topological(tasks: Mapping[str, Task]) -> list[str]:
    """Task ids, each after what it needs; a need that is not among the tasks counts as met."""
    return _sorted(tasks, followers_of(tasks))


def urgencies(tasks: Mapping[str, Task]) -> dict[str, float]:
    """Per task, the seconds on the longest path from its start to the end of the graph."""
    followers = followers_of(tasks)
    longest: dict[str, float] = {}
    for name in reversed(_sorted(tasks, followers)):
        longest[name] = tasks[name].seconds + max((longest[f] for f in followers[name]), default=0.0)
    return longest


def _sorted(tasks: Mapping[str, Task], followers: Mapping[str, list[str]]) -> list[str]:
    missing = {name: sum(need in tasks for need in set(task.needs)) for name, task in tasks.items()}
    ready = [name for name, count in missing.items() if count == 0]
    order: list[str] = []
    while ready:
        name = ready.pop()
        order.append(name)
        for follower in followers[name]:
            missing[follower] -= 1
            if missing[follower] == 0:
                ready.append(follower)
    return order
