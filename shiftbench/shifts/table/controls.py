"""Negative controls. A literal table; importing it needs no torch."""

from __future__ import annotations

from shiftbench.shifts.operator import Operator
from shiftbench.types import Family

ROWS: tuple[Operator, ...] = (
    Operator(
        name="identity",
        family=Family.CONTROL,
        modalities=("mr", "ct", "rgb", "grey"),
        parameter="nothing",
        unit="",
        identity=0.0,
        levels=(0.0, 0.0, 0.0, 0.0, 0.0),
        range=(0.0, 0.0),
        achieved="nrmse",
        measure="measure:change",
        stage=0,
        function="intensity:identity",
        reference="negative control",
        monotone=False,
    ),
    Operator(
        name="gain",
        family=Family.CONTROL,
        modalities=("mr", "rgb", "grey"),
        parameter="factor on every value",
        unit="x",
        identity=1.0,
        levels=(1.25, 1.5, 2.0, 3.0, 5.0),
        range=(0.01, 100.0),
        achieved="nrmse",
        measure="measure:change",
        stage=80,
        function="intensity:gain",
        reference="negative control: costs nothing after z-scoring",
    ),
    Operator(
        name="offset",
        family=Family.CONTROL,
        modalities=("mr", "rgb", "grey"),
        parameter="added to every value, of the reference signal",
        unit="%",
        identity=0.0,
        levels=(5.0, 10.0, 20.0, 50.0, 100.0),
        range=(0.0, 1000.0),
        achieved="nrmse",
        measure="measure:change",
        stage=81,
        function="intensity:offset",
        reference="negative control: costs nothing after z-scoring",
    ),
)
