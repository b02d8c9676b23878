"""`shiftbench status`: how the runs of a result folder are, and what the folder holds, from its files alone."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from shiftbench.errors import OutputError
from shiftbench.store import Store
from shiftbench.store.owners import clock
from shiftbench.store.places import META, listed, sharded
from shiftbench.watch.failures import TASKS, Failure
from shiftbench.watch.runfile import FOLDER, FORMAT, owner_in
from shiftbench.watch.words import duration, task_line, time_left

QUIET_SECONDS = 120.0  # without a sign, after which a run of another machine is taken for gone: dates may come late
LATEST = 5  # failures, earlier runs and warnings that are told of
SHOWN = 12  # tasks under way that people are told of

Content = dict[str, Any]


def told(folder: Path, *, as_json: bool = False) -> list[str]:
    """What the command prints: lines for people, or one JSON object.

    Raises:
        OutputError: it is no result folder.
    """
    content = status(folder)
    return [json.dumps(content, ensure_ascii=False, allow_nan=False)] if as_json else status_lines(content)


def status(folder: Path) -> Content:
    """What is known of a result folder, as JSON values; docs/watching.md has the fields.

    Raises:
        OutputError: it is no result folder.
    """
    if not (folder / META).is_file():
        raise OutputError("this is no result folder", where=folder, remedy="give a folder that `shiftbench run` wrote")
    store = Store(folder)
    kinds = [entry.name for entry in listed(folder / "records")]
    return {
        "schema": 1,
        "folder": str(folder),
        "runs": _runs(folder),
        "finished": {kind: len(store.finished(kind)) for kind in TASKS if kind in kinds},
        "failures": _failures(folder),
    }


def _runs(folder: Path) -> list[Content]:
    """All runs, the latest first, each with its state: "going on", "ended", "stopped" or "gone"."""
    now = _now(folder)
    found = []
    for entry in listed(folder / FOLDER):
        path = Path(entry.path)
        if path.suffix != ".json" or entry.name.startswith("."):
            continue
        try:
            quiet = max(0.0, now - _last_sign(path))
            content = json.loads(path.read_bytes())
            if content["format"] != FORMAT:
                continue
            found.append({**content, "state": _state(content, quiet), "quiet": round(quiet, 1)})
        except (OSError, ValueError, KeyError, TypeError):  # taken away meanwhile, or not one of ours
            continue
    return sorted(found, key=lambda run: run["started"], reverse=True)


def _state(content: Mapping[str, Any], quiet: float) -> str:
    if content["state"] != "going on":
        return str(content["state"])
    gone = owner_in(content).gone
    return "gone" if gone or (gone is None and quiet > QUIET_SECONDS) else "going on"


def _last_sign(path: Path) -> float:
    """When a run last wrote its file or touched the one beside it."""
    beat = path.with_suffix(".beat")
    return max(path.stat().st_mtime, beat.stat().st_mtime if beat.is_file() else 0.0)


def _now(folder: Path) -> float:
    """Of the file system's clock; of this machine's where the folder cannot be written."""
    try:
        return clock(folder)
    except OSError:
        return time.time()


def _failures(folder: Path) -> Content:
    """Tasks whose last attempt failed: how many by reason, and the latest."""
    reasons: Counter[str] = Counter()
    latest: list[tuple[float, Failure]] = []
    for kind, entry in sharded(folder, "failures"):
        if not entry.name.endswith(".json") or entry.name.startswith("."):
            continue
        try:
            record, at = json.loads(Path(entry.path).read_bytes()), entry.stat().st_mtime
            failure = Failure.of_record(kind, entry.name.removesuffix(".json"), record)
        except FileNotFoundError:  # the task has just been done
            continue
        except (OSError, ValueError, AttributeError):
            reasons["damaged"] += 1
            continue
        reasons[failure.reason] += 1
        if failure.reason != "input":
            latest = sorted([*latest, (at, failure)], key=lambda pair: -pair[0])[:LATEST]
    shown = [{"kind": f.kind, "key": f.key, "label": f.label, "reason": f.reason, "cause": f.cause} for _, f in latest]
    return {"count": sum(reasons.values()), "reasons": dict(reasons.most_common()), "latest": shown}


def status_lines(content: Content) -> list[str]:
    """The same for people."""
    runs = content["runs"]
    going = [run for run in runs if run["state"] == "going on"]
    others = [run for run in runs if run["state"] != "going on"]
    lines = [line for run in going for line in _going_on(run)]
    lines += [_over(run) for run in others[: LATEST if going else LATEST + 1]]
    more = len(others) - LATEST - (not going)
    lines += [f"and {more} earlier runs"] if more > 0 else []
    lines = lines or ["no run has left its name here"]
    finished = ", ".join(f"{count} {kind}" for kind, count in content["finished"].items())
    return [*lines, f"finished tasks in the folder: {finished or 'none'}", *_failure_lines(content["failures"])]


def _going_on(run: Content) -> list[str]:
    left = time_left(None if run["seconds_left"] is None else max(0.0, run["seconds_left"] - run["quiet"]))
    words = [f"going on since {_clock_time(run['started'])}", _counted(run["counts"]), left]
    if run["quiet"] > QUIET_SECONDS:
        words.append(f"no sign for {duration(run['quiet'])}")
    lines = [f"{_name(run)}: {', '.join(filter(None, words))}"]
    order = [*TASKS, *sorted(set(run["kinds"]) - set(TASKS))]
    kinds = {kind: run["kinds"][kind] for kind in order if run["kinds"].get(kind, {}).get("left")}
    if kinds:
        done = (f"{kind} {c['total'] - c['left']} of {c['total']}" for kind, c in kinds.items())
        lines.append(f"  {', '.join(done)}")
    sign = datetime.fromisoformat(run["beat"])
    for one in run["running"][:SHOWN]:
        seconds = (sign - datetime.fromisoformat(one["since"])).total_seconds() + run["quiet"]
        lines.append(f"  {task_line(one['label'], one['words'], seconds, one['where'])}")
    more = run["under_way"] - len(run["running"][:SHOWN])
    lines += [f"  and {more} more"] if more > 0 else []
    return [*lines, *(f"  note: {words}" for words in run["warnings"][-LATEST:])]


def _over(run: Content) -> str:
    spent = datetime.fromisoformat(run["beat"]) - datetime.fromisoformat(run["started"])
    after = f"after {duration(spent.total_seconds())}"
    if run["state"] == "gone":
        how = f"gone without an end, last sign {_clock_time(run['beat'])}; the same command goes on from there"
    elif run["state"] == "stopped":
        how = f"stopped {_clock_time(run['beat'])} {after}, {run['words']}"
    else:
        how = f"ended {_clock_time(run['beat'])} {after}"
    return f"{_name(run)}: {how}; {_counted(run['counts'])}"


def _name(run: Content) -> str:
    return f"run on {run['host']}, process {run['pid']}"


def _counted(counts: Mapping[str, int]) -> str:
    parts = [f"{counts['total'] - counts['left']} of {counts['total']} tasks"]
    return ", ".join([*parts, *(f"{counts[what]} {what}" for what in ("failed", "reused") if counts[what])])


def _clock_time(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _failure_lines(failures: Content) -> list[str]:
    if not failures["count"]:
        return ["no failures"]
    reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in failures["reasons"].items())
    latest = [f"  {one['label']}: {one['cause'].rstrip('.')}" for one in failures["latest"]]
    return [f"failed tasks: {failures['count']} ({reasons}); the next run tries them again", *latest]
