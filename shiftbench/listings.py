"""What `shiftbench list` prints; each listing imports its own table alone, so that it starts at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Lines = list[tuple[str, ...]]


def scenarios() -> tuple[tuple[str, ...], Lines]:
    """Suites, then scenarios, with the question each asks."""
    from shiftbench.spec import load_scenario, read_toml, scenario_files, suite_files

    lines: Lines = []
    for name, path in suite_files().items():
        suite = read_toml(path)
        lines.append((name, "suite", ", ".join(suite.get("scenarios", [])), str(suite.get("question", ""))))
    for name in scenario_files():
        scenario = load_scenario(name)
        lines.append((name, f"{scenario.dimension}, {scenario.budget}", scenario.dataset, scenario.question))
    return ("name", "kind", "data", "question"), lines


def methods() -> tuple[tuple[str, ...], Lines]:
    """Variants of the shipped methods by track."""
    from shiftbench.methods import describe_methods

    infos = sorted(describe_methods(), key=lambda info: (info.track, info.name))
    return ("name", "track", "episode", "method"), [(i.name, i.track, i.episode, i.summary) for i in infos]


def shifts() -> tuple[tuple[str, ...], Lines]:
    """Acquisition operators, population operators and protocol rules with their levels."""
    from shiftbench.shifts import OPERATORS, POPULATIONS, PROTOCOLS

    lines: Lines = []
    for op in OPERATORS.values():
        lines.append((op.name, str(op.family), op.parameter, op.unit, _numbers(op.levels)))
    for who in POPULATIONS.values():
        lines.append((who.name, "population", who.parameter, who.unit, _numbers(who.levels)))
    for rule in PROTOCOLS.values():
        values = ", ".join(rule.choices) or _numbers(rule.levels)
        lines.append((rule.name, "annotation", rule.parameter, rule.unit, values))
    return ("name", "family", "parameter", "unit", "levels 1-5, or values"), lines


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def backbones() -> tuple[tuple[str, ...], Lines]:
    """Entries of the table of backbones, each with what it changes of a plain one."""
    from dataclasses import fields

    from shiftbench.backbones import BACKBONES, Backbone

    plain, silent = Backbone(), {"network", "version", "features", "multiple"}
    lines: Lines = []
    for name, backbone in BACKBONES.items():
        given = {f.name: getattr(backbone, f.name) for f in fields(Backbone) if f.name not in silent}
        changed = {k: dict(v) if k == "arguments" else v for k, v in given.items() if v != getattr(plain, k)}
        words = ", ".join(f"{key} = {value}" for key, value in changed.items())
        lines.append((name, backbone.network, str(backbone.stride), words))
    return ("name", "network", "stride", "choices that differ from the defaults"), lines


def metrics() -> tuple[tuple[str, ...], Lines]:
    """Scorers with what they are of, unit, direction, definitions and the rule for undefined cases."""
    from shiftbench.metrics.scorers import GROUPS

    lines: Lines = [
        (name, of, s.unit, s.direction, ", ".join(s.definitions), s.undefined)
        for of, scorers in GROUPS.items()
        for name, s in scorers.items()
    ]
    return ("name", "of", "unit", "better", "definitions", "undefined cases"), lines


def features() -> tuple[tuple[str, ...], Lines]:
    """Radiomic features, as the metrics of rows name them."""
    from shiftbench.metrics.features import FEATURES, PREFIX

    lines: Lines = [(f"{PREFIX}{name}", f.kind, f.unit, f.ibsi) for name, f in FEATURES.items()]
    return ("name", "kind", "unit", "IBSI"), lines


def datasets() -> tuple[tuple[str, ...], Lines]:
    """Phantoms and described folders."""
    from shiftbench.data.catalogue import LOADERS
    from shiftbench.data.describe import load_description
    from shiftbench.spec import content_root

    lines: Lines = [(name, "synthetic, embedded", "Apache-2.0", "made when it is asked for") for name in LOADERS]
    for path in sorted((content_root() / "scenarios" / "datasets").glob("*.toml")):
        d = load_description(path, path.parent)
        lines.append((d.name, f"{d.layout}, {d.modality}", d.licence, d.citation))
    return ("name", "kind", "licence", "citation"), lines


TABLES: dict[str, Callable[[], tuple[tuple[str, ...], Lines]]] = {
    "scenarios": scenarios,
    "methods": methods,
    "shifts": shifts,
    "backbones": backbones,
    "metrics": metrics,
    "features": features,
    "datasets": datasets,
}
