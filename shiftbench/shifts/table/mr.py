"""Parameters of an MR acquisition: they act before the signal equation. A literal table; importing it needs no torch."""

from __future__ import annotations

from shiftbench.shifts.operator import Operator

ROWS: tuple[Operator, ...] = (
    Operator(
        name="field_strength",
        modalities=("mr",),
        requires=frozenset({"maps"}),
        parameter="main field, with T1, T2, T2*, SNR and transmit inhomogeneity",
        unit="T",
        identity=1.5,
        levels=(3.0, 0.55, 7.0, 0.3, 0.064),
        range=(0.05, 7.0),
        achieved="field_t",
        measure="field_t",
        stage=10,
        kind="parameter",
        function="parameters:field_strength",
        reference="Hoult and Lauterbur, J Magn Reson 34:425, 1979; Bottomley et al., Med Phys 11:425, 1984",
        monotone=False,
    ),
    Operator(
        name="flip_angle",
        modalities=("mr",),
        requires=frozenset({"maps"}),
        parameter="flip angle relative to the nominal one",
        unit="%",
        identity=100.0,
        levels=(85.0, 70.0, 50.0, 35.0, 25.0),  # 17, 14, 10, 7 and 5 degrees from 20
        range=(5.0, 200.0),
        achieved="flip_deg",
        measure="flip_deg",
        worse=-1,
        stage=12,
        kind="parameter",
        function="parameters:flip_angle",
        reference="Haase et al., J Magn Reson 67:258, 1986",
    ),
    Operator(
        name="echo_time",
        modalities=("mr",),
        requires=frozenset({"maps"}),
        parameter="echo time relative to the nominal one",
        unit="%",
        identity=100.0,
        levels=(150.0, 200.0, 300.0, 400.0, 600.0),
        range=(10.0, 1000.0),
        achieved="te_ms",
        measure="te_ms",
        stage=14,
        kind="parameter",
        function="parameters:echo_time",
        reference="Haase et al., J Magn Reson 67:258, 1986",
    ),
)
