"""How large a field-wide run is: 60 methods x 200 targets x 10 data sets x 5 seeds, counted and never started.

    python benchmarks/plan_field.py [--out FILE]     # plans all of it, scenario by scenario, and prints the table
    python benchmarks/plan_field.py --measure        # the bytes per file and row that the table rests on
    python benchmarks/plan_field.py --scenarios DIR  # writes the files and prints the command that counts them

The scenarios are TOML files that the planner of every run reads: ten cohorts of phantoms (three bodies, other sizes and
seeds), twenty scenarios for each, one operator at ten levels in a scenario. The methods are those that come with the
package under sixty names. Nothing is computed but the plan.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from shiftbench.backbones import backbone_named
from shiftbench.domains import Part, load_reference
from shiftbench.graph import MethodCard, Options, Plan, Task
from shiftbench.keeping.estimate import VERBS
from shiftbench.keeping.field import sized
from shiftbench.keeping.limits import Costs, described
from shiftbench.methods import describe_methods
from shiftbench.networks import Normalise, build
from shiftbench.plan import plan, plan_each
from shiftbench.rng import generator
from shiftbench.runner import collect
from shiftbench.shifts import OPERATORS
from shiftbench.spec import Scenario, load_scenario
from shiftbench.store import Store
from shiftbench.tasks import Task as Layout
from shiftbench.types import Track
from shiftbench.worker.perform import Context, perform

METHODS, DATA_SETS, SCENARIOS, SEEDS = 60, 10, 20, 5
LEVELS = tuple(i / 2 for i in range(1, 11))  # ten targets
BODIES = {"abdomen": "liver", "brain": "lesion", "heart": "lv"}

SCENARIO = """
name = "{name}"
version = 1
question = "How much does {operator} cost, and which method helps?"
reason = "A field-wide run."
citation = "none"
dataset = "phantom/{body}"
dimension = "2d"
budget = "quick"
seeds = {seeds}

[phantom]
patients = {patients}
shape = [{slices}, 128, 128]
seed = {seed}

[structures.{structure}]
tolerance_mm = 2.0
{second}
[[source]]
name = "site-a"

[[target]]
name = "{operator}"
family = "acquisition"
acquisition = [{{ operator = "{operator}", levels = {levels} }}]
"""
SECOND = "[structures.tumour]\ntolerance_mm = 1.0\nmay_be_absent = true\n"


def scenarios(folder: Path) -> Iterator[Scenario]:
    """The scenarios, each written and read as a file when its turn has come."""
    operators = [name for name, row in OPERATORS.items() if row.monotone][:SCENARIOS]
    for i, body in enumerate(islice(cycle(BODIES), DATA_SETS)):
        for operator in operators:
            path = folder / f"field-{i}-{operator}.toml"
            path.write_text(
                SCENARIO.format(
                    **{"name": path.stem, "operator": operator, "body": body, "seed": i, "seeds": list(range(SEEDS))},
                    **{"patients": 80 + 10 * i, "slices": 16 + 2 * i, "structure": BODIES[body]},
                    **{"second": SECOND if body == "abdomen" else "", "levels": list(LEVELS)},
                )
            )
            yield load_scenario(path)


def methods() -> list[MethodCard]:
    """Source-only, an oracle, and the shipped methods that adapt, each under several names as if they were many."""
    known = [info for info in describe_methods() if info.track not in (Track.ESTIMATE, Track.REFERENCE)]
    chosen = [("erm", "dg", "offline"), ("target_oracle", "reference", "offline")]
    several = cycle([info for info in known if info.track != Track.FEWSHOT])
    few = [info for info in known if info.track == Track.FEWSHOT][:2]
    chosen += [(f"{info.name}-{n:02d}", info.track, info.episode) for n, info in enumerate(few)]
    while len(chosen) < METHODS:
        info = next(several)
        chosen.append((f"{info.name}-{len(chosen):02d}", info.track, info.episode))
    return [
        MethodCard(name, name, "1", Track(track), episode, {"k": 1} if track == "fewshot" else {}, (), {"path": name})
        for name, track, episode in chosen
    ]


def run(out: Path | None) -> None:
    """Counts the run and prints its table."""
    with tempfile.TemporaryDirectory() as folder:
        size = sized(plan_each(scenarios(Path(folder)), methods(), Options(device="cuda"), "field"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    lines = described(size, Costs())
    lines.append(f"Counting took {peak:.1f} GB of memory, for one scenario at a time is held.")
    title = f"# {METHODS} methods x {len(LEVELS) * SCENARIOS} targets x {DATA_SETS} data sets x {SEEDS} seeds\n"
    text = "\n".join([title, "`python benchmarks/plan_field.py`", "", "```", *lines, "```", ""])
    print(text)
    if out is not None:
        out.write_text(text)


def measure() -> None:
    """Prints bytes per record and file, and per row, of a real scenario; predictions are near the truth."""
    scenario = load_scenario("abdomen-scanner")
    small = {"phantom": scenario.phantom.model_copy(update={"patients": 20}), "target": scenario.target[:3]}
    card = MethodCard("erm", "erm", "1", Track.DG, "offline", {}, (), {"path": "erm"})
    graph = plan([scenario.model_copy(update=small)], [card], Options(), "measure")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for task in graph.tasks.values():
            _do(store, task)
        size = sized([graph], store)
        for kind in VERBS:
            if kind in size.bytes:
                print(f"    {kind!r}: ({size.bytes[kind][0]:.0f}, {size.bytes[kind][1]:.0f}),  # record, each file")
        _measure_rows(graph, store)


def _measure_rows(graph: Plan, store: Store) -> None:
    tracemalloc.start()
    rows = collect(graph, store)
    peak = tracemalloc.get_traced_memory()[1]
    kept = rows.memory_usage(deep=True).sum()
    n = len(rows)
    print(f"{n} rows: {peak / n:.0f} bytes a row at most, {kept / n:.0f} of the table")


def _do(store: Store, task: Task) -> None:
    """Data and scores as in a run; a network that is not trained, and references moved by a voxel as predictions."""
    with store.workspace() as folder:
        if task.kind == "train":
            save_file(_weights(task), folder / "weights.safetensors")
            store.publish("train", task.key, {"losses": [0.5] * task.payload["recipe"]["steps"]}, folder)
        elif task.kind == "predict":
            cases = {}
            for case, (_, _, references) in Part.of(task.payload["test"]).where().items():
                labels = np.roll(load_reference(store, references, case), 1, axis=-1)
                np.savez_compressed(folder / f"{case}.npz", labels=labels)
                cases[case] = {"status": "ok", "detail": "", "seconds": 1.0, "peak_mb": 1.0}
            store.publish("predict", task.key, {"cases": cases}, folder)
        else:
            answer = perform(Context(store), task.kind, task.key, task.payload)
            if not answer["ok"]:
                raise RuntimeError(answer["cause"])


def _weights(train: Task) -> dict[str, np.ndarray]:
    """Of a network as large as that of a training task."""
    model = build(
        backbone_named(train.payload["backbone"]),
        dimension=train.payload["dimension"],
        channels=1,
        task=Layout.of(train.payload["layout"]),
        normalise=Normalise("zscore"),
        patch=train.payload["recipe"]["patch"],
        stack=train.payload["recipe"]["stack"],
        rng=generator(0, "measure"),
    )
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def main() -> None:
    """The command line of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="bytes per file and row")
    parser.add_argument("--scenarios", type=Path, help="a folder for the files, to be counted by `shiftbench plan`")
    parser.add_argument("--out", type=Path, help="where the table is written too")
    asked = parser.parse_args()
    if asked.measure:
        measure()
    elif asked.scenarios is not None:
        asked.scenarios.mkdir(parents=True, exist_ok=True)
        n = sum(1 for _ in scenarios(asked.scenarios))
        rates = " ".join(f"--method tent_bn:lr={i}e-5" for i in range(1, METHODS - 1))
        command = f"shiftbench plan {asked.scenarios}/*.toml --dry-run --method erm --method target_oracle {rates}"
        print(f"{n} scenarios are in {asked.scenarios}; count them with\n{command}")
    else:
        run(asked.out)


if __name__ == "__main__":
    main()
