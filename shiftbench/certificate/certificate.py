"""The certificate: effects, physical checks and the drop of a plain U-Net, as tables, figures and breaches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from shiftbench.certificate import drop, effects, physics
from shiftbench.certificate.figures import drop_figure, effect_figure
from shiftbench.certificate.reference_set import candidates
from shiftbench.errors import OutputError
from shiftbench.report.style import save
from shiftbench.shifts import OPERATORS
from shiftbench.shifts.operators import find
from shiftbench.types import Status


@dataclass(frozen=True)
class Certificate:
    """What was measured of some operators.

    Attributes:
        cases: one row per operator, case and level (`effects.COLUMNS`).
        checks: one row per measurement on a test object.
        drops: one row per operator and level, empty where no U-Net was asked for.
        breaches: what does not hold, one sentence each.
    """

    cases: pd.DataFrame
    checks: pd.DataFrame
    drops: pd.DataFrame
    breaches: tuple[str, ...]

    def levels(self) -> pd.DataFrame:
        """One row per operator and level: value, achieved (median and range over cases), error, change and drop."""
        done = self.cases[self.cases["status"] == Status.OK]
        keys = ["operator", "set", "level", "value", "unit", "quantity"]
        table = done.groupby(keys, as_index=False, sort=False).agg(
            achieved=("achieved", "median"),
            lowest=("achieved", "min"),
            highest=("achieved", "max"),
            error=("error", "max"),
            nrmse=("nrmse", "median"),
            cases=("case", "nunique"),
        )
        table = table.merge(self.drops, how="left", on=["operator", "level"])
        order = {name: i for i, name in enumerate(dict.fromkeys(table["operator"]))}
        return table.sort_values(["operator", "level"], key=lambda c: c.map(order).fillna(c), ignore_index=True)


def certify(
    names: Sequence[str] = (), *, cases: int = 3, patients: int = 8, say: Callable[[str], None] = lambda line: None
) -> Certificate:
    """Puts operators at every level through the reference set.

    Args:
        names: operators; all of them if empty.
        cases: patients of the reference set.
        patients: on which the drop of a U-Net is measured; 0 trains none.
        say: is told what is being done.

    Raises:
        OperatorError: an unknown operator.
    """
    operators = [find(name) for name in names or OPERATORS]
    tables, breaches = [], list[str]()
    for operator in operators:
        say(operator.name)
        table = effects.effects(operator, cases)
        tables.append(table)
        breaches += effects.breaches(operator, table)
        breaches += effects.identity_breaches(operator, candidates(operator))
    measured = list(physics.checks([operator.name for operator in operators]))
    for check in measured:
        if not check.passed:
            breaches.append(
                f"{check.operator}: {check.name} is {check.measured:.4g} instead of {check.expected:.4g} {check.unit}"
            )
    drops = pd.DataFrame(columns=drop.COLUMNS)
    if patients:
        modalities = [m for m in ("mr", "ct") if any(m in operator.modalities for operator in operators)]
        say(f"training a U-Net on {' and '.join(modalities)}")
        drops = drop.drops(operators, [drop.trained(m) for m in modalities], patients)
    checked = pd.DataFrame([{**vars(c), "off": c.off, "passed": c.passed} for c in measured])
    return Certificate(pd.concat(tables, ignore_index=True), checked, drops, tuple(breaches))


def write(certificate: Certificate, folder: Path) -> list[Path]:
    """Writes the certificate's tables and figures into a folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    levels = certificate.levels()
    files = {"levels.csv": levels, "cases.csv": certificate.cases, "checks.csv": certificate.checks}
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in files.items():
            table.to_csv(folder / name, index=False, float_format="%.6g")
            paths.append(folder / name)
        (folder / "certificate.md").write_text(as_markdown(certificate), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"the certificate cannot be written: {error.strerror}",
            where=folder,
            remedy="give another folder with --out",
        ) from error
    paths.append(folder / "certificate.md")
    paths += save(effect_figure(certificate.cases), folder, "requested-against-achieved")
    if not certificate.drops.empty:
        paths += save(drop_figure(certificate.drops), folder, "drop-of-a-unet")
    return paths


def as_markdown(certificate: Certificate) -> str:
    """The certificate as a page: breaches, one line per operator, one line per physical check."""
    lines = ["# Certificate of the acquisition operators", ""]
    lines += [f"- **breach**: {sentence}" for sentence in certificate.breaches] or ["No breach."]
    lines += [
        "",
        "## Levels",
        "",
        "Achieved: median over the cases, measured on the output. Drop: DSC points of a plain U-Net.",
        "",
    ]
    lines += [
        "| operator | quantity | asked at severity 1 to 5 | achieved | largest error | drop |",
        "|---|---|---|---|---|---|",
    ]
    for name, own in certificate.levels().groupby("operator", sort=False):
        asked = ", ".join(f"{v:g}" for v in own["value"])
        achieved = ", ".join(f"{v:.3g}" for v in own["achieved"])
        error = "" if own["error"].isna().all() else f"{own['error'].max():.1%}"
        drops = ", ".join("" if pd.isna(v) else f"{100 * v:.1f}" for v in own["drop"])
        unit = f" {own['unit'].iloc[0]}" if own["unit"].iloc[0] else ""
        lines.append(
            f"| {name} | {own['quantity'].iloc[0]} | {asked}{unit} | {achieved} | {error} | {drops.strip(', ')} |"
        )
    lines += [
        "",
        "## Measurements on test objects",
        "",
        "| operator | measured | expected | found | allowed | holds |",
        "|---|---|---|---|---|---|",
    ]
    for row in certificate.checks.itertuples():
        allowed = f"{row.allowed:.0%}" if row.relative else f"{row.allowed:g} {row.unit}"
        expected, found = f"{row.expected:.4g} {row.unit}", f"{row.measured:.4g} {row.unit}"
        lines.append(
            f"| {row.operator} | {row.name} | {expected} | {found} | {allowed} | {'yes' if row.passed else 'NO'} |"
        )
    return "\n".join(lines) + "\n"
