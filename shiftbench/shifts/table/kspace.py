"""Operators on the k-space of an MR scan. A literal table; importing it needs no torch."""

from __future__ import annotations

from shiftbench.shifts.operator import Operator

ROWS: tuple[Operator, ...] = (
    Operator(
        name="in_plane_resolution",
        modalities=("mr", "rgb", "grey"),
        requires=frozenset({"magnitude", "spacing"}),
        parameter="acquired pixel size, zero-filled to the grid",
        unit="mm",
        identity=1.0,
        levels=(1.2, 1.5, 2.0, 2.5, 3.0),
        range=(0.05, 30.0),
        achieved="acquired_mm",
        measure="geometry:pixel_mm",
        stage=40,
        function="geometry:in_plane_resolution",
        reference="Bernstein, King and Zhou, Handbook of MRI Pulse Sequences, 2004, section 13.1",
    ),
)
