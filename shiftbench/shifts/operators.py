"""The literal table of acquisition operators, their severities, and `apply`; importing it does not import torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any, Literal

from shiftbench.errors import OperatorError, nearest
from shiftbench.types import Family

NOISE_STAGE = 50  # the noise of the scanner itself enters here: before it raw signal, after it the finished image


class LabelPolicy(StrEnum):
    """What an operator does to the reference."""

    INVARIANT = "invariant"  # reference untouched, scored on the reference grid
    CO_WARP = "co-warp"  # image and labels are moved by one field
    PROTOCOL = "protocol"  # the reference alone is changed


@dataclass(frozen=True)
class Operator:
    """One way in which an acquisition differs.

    Attributes:
        name: as scenarios name it.
        version: raised when the same value and draw give other numbers.
        family: acquisition, or control.
        modalities: for which it is defined.
        requires: of "maps" (tissue maps), "magnitude" (no negative values), "hu", "labels", "spacing".
        parameter: what the value means.
        unit: of the value.
        identity: the value that changes nothing (severity 0).
        levels: values of severity 1 to 5.
        range: smallest and largest value allowed.
        achieved: the measured quantity in which it is monotone.
        policy: what happens to the reference.
        stage: place in the physical order of an acquisition.
        kind: "parameter" changes the acquisition before the signal equation, "image" acts on the image.
        function: "module:name" within this package. A name and not the function itself, so that a command line can
            list the table without importing torch; it is looked up at first use.
        reference: source.
        monotone: whether severity 1 to 5 is an order; a categorical operator has whole severities only.
    """

    name: str
    version: int
    family: Family
    modalities: tuple[str, ...]
    requires: frozenset[str]
    parameter: str
    unit: str
    identity: float
    levels: tuple[float, float, float, float, float]
    range: tuple[float, float]
    achieved: str
    policy: LabelPolicy
    stage: int
    kind: Literal["parameter", "image"]
    function: str
    reference: str
    monotone: bool = True


OPERATORS: dict[str, Operator] = {
    "identity": Operator(
        name="identity",
        version=1,
        family=Family.CONTROL,
        modalities=("mr", "ct", "rgb", "grey"),
        requires=frozenset(),
        parameter="nothing",
        unit="",
        identity=0.0,
        levels=(0.0, 0.0, 0.0, 0.0, 0.0),
        range=(0.0, 0.0),
        achieved="nrmse",
        policy=LabelPolicy.INVARIANT,
        stage=0,
        kind="image",
        function="intensity:identity",
        reference="negative control",
        monotone=False,
    ),
    "field_strength": Operator(
        name="field_strength",
        version=1,
        family=Family.ACQUISITION,
        modalities=("mr",),
        requires=frozenset({"maps"}),
        parameter="main field, with T1, T2, T2*, SNR and transmit inhomogeneity",
        unit="T",
        identity=1.5,
        levels=(3.0, 0.55, 7.0, 0.3, 0.064),
        range=(0.05, 7.0),
        achieved="field_t",
        policy=LabelPolicy.INVARIANT,
        stage=10,
        kind="parameter",
        function="acquisition:field_strength",
        reference="Hoult and Lauterbur, J Magn Reson 34:425, 1979; Bottomley et al., Med Phys 11:425, 1984",
        monotone=False,
    ),
    "flip_angle": Operator(
        name="flip_angle",
        version=1,
        family=Family.ACQUISITION,
        modalities=("mr",),
        requires=frozenset({"maps"}),
        parameter="flip angle relative to the nominal one",
        unit="%",
        identity=100.0,
        levels=(85.0, 70.0, 50.0, 35.0, 25.0),  # 17, 14, 10, 7 and 5 degrees from 20
        range=(5.0, 200.0),
        achieved="flip_deg",
        policy=LabelPolicy.INVARIANT,
        stage=12,
        kind="parameter",
        function="acquisition:flip_angle",
        reference="Haase et al., J Magn Reson 67:258, 1986",
    ),
    "echo_time": Operator(
        name="echo_time",
        version=1,
        family=Family.ACQUISITION,
        modalities=("mr",),
        requires=frozenset({"maps"}),
        parameter="echo time relative to the nominal one",
        unit="%",
        identity=100.0,
        levels=(150.0, 200.0, 300.0, 400.0, 600.0),
        range=(10.0, 1000.0),
        achieved="te_ms",
        policy=LabelPolicy.INVARIANT,
        stage=14,
        kind="parameter",
        function="acquisition:echo_time",
        reference="Haase et al., J Magn Reson 67:258, 1986",
    ),
    "bias_field": Operator(
        name="bias_field",
        version=1,
        family=Family.ACQUISITION,
        modalities=("mr", "rgb", "grey"),
        requires=frozenset({"magnitude"}),
        parameter="intensity non-uniformity, 1st to 99th percentile inside the body",
        unit="%",
        identity=0.0,
        levels=(10.0, 20.0, 40.0, 80.0, 120.0),
        range=(0.0, 300.0),
        achieved="inu_percent",
        policy=LabelPolicy.INVARIANT,
        stage=30,
        kind="image",
        function="intensity:bias_field",
        reference="Collins et al., BrainWeb, IEEE Trans Med Imaging 17:463, 1998",
    ),
    "in_plane_resolution": Operator(
        name="in_plane_resolution",
        version=1,
        family=Family.ACQUISITION,
        modalities=("mr", "rgb", "grey"),
        requires=frozenset({"magnitude", "spacing"}),
        parameter="acquired pixel size, zero-filled to the grid",
        unit="mm",
        identity=1.0,
        levels=(1.2, 1.5, 2.0, 2.5, 3.0),
        range=(0.05, 30.0),
        achieved="acquired_mm",
        policy=LabelPolicy.INVARIANT,
        stage=40,
        kind="image",
        function="geometry:in_plane_resolution",
        reference="Bernstein, King and Zhou, Handbook of MRI Pulse Sequences, 2004, section 13.1",
    ),
    "slice_thickness": Operator(
        name="slice_thickness",
        version=1,
        family=Family.ACQUISITION,
        modalities=("mr", "ct"),
        requires=frozenset({"spacing"}),
        parameter="thickness and distance of contiguous slices",
        unit="mm",
        identity=1.0,
        levels=(2.0, 3.0, 5.0, 7.5, 10.0),
        range=(0.1, 40.0),
        achieved="edge_fwhm_mm",
        policy=LabelPolicy.INVARIANT,
        stage=45,
        kind="image",
        function="geometry:slice_thickness",
        reference="Hori et al., liver volume and slice thickness, Eur J Radiol 2011",
    ),
    "rician_noise": Operator(
        name="rician_noise",
        version=1,
        family=Family.ACQUISITION,
        modalities=("mr",),
        requires=frozenset({"magnitude"}),
        parameter="signal-to-noise ratio in the reference tissue",
        unit="SNR",
        identity=math.inf,
        levels=(40.0, 25.0, 15.0, 10.0, 6.0),
        range=(0.5, math.inf),
        achieved="snr",
        policy=LabelPolicy.INVARIANT,
        stage=55,
        kind="image",
        function="intensity:rician_noise",
        reference="Gudbjartsson and Patz, Magn Reson Med 34:910, 1995",
    ),
    "gamma": Operator(
        name="gamma",
        version=1,
        family=Family.ACQUISITION,
        modalities=("mr", "rgb", "grey"),
        requires=frozenset(),
        parameter="exponent, darker mid-tones",
        unit="gamma",
        identity=1.0,
        levels=(1.15, 1.3, 1.5, 1.8, 2.2),
        range=(1.0, 5.0),
        achieved="nrmse",
        policy=LabelPolicy.INVARIANT,
        stage=70,
        kind="image",
        function="intensity:gamma",
        reference="not physical; for comparison with Boone et al., ROOD-MRI, NeuroImage 278, 2023",
    ),
    "gamma_bright": Operator(
        name="gamma_bright",
        version=1,
        family=Family.ACQUISITION,
        modalities=("mr", "rgb", "grey"),
        requires=frozenset(),
        parameter="exponent, brighter mid-tones",
        unit="gamma",
        identity=1.0,
        levels=(1 / 1.15, 1 / 1.3, 1 / 1.5, 1 / 1.8, 1 / 2.2),
        range=(0.2, 1.0),
        achieved="nrmse",
        policy=LabelPolicy.INVARIANT,
        stage=70,
        kind="image",
        function="intensity:gamma",
        reference="not physical; for comparison with Boone et al., ROOD-MRI, NeuroImage 278, 2023",
    ),
    "gain": Operator(
        name="gain",
        version=1,
        family=Family.CONTROL,
        modalities=("mr", "rgb", "grey"),
        requires=frozenset(),
        parameter="factor on every value",
        unit="x",
        identity=1.0,
        levels=(1.25, 1.5, 2.0, 3.0, 5.0),
        range=(0.01, 100.0),
        achieved="nrmse",
        policy=LabelPolicy.INVARIANT,
        stage=80,
        kind="image",
        function="intensity:gain",
        reference="negative control: costs nothing after z-scoring",
    ),
}


def find(name: str) -> Operator:
    """The operator of that name.

    Raises:
        OperatorError: there is none; the nearest name is in the message.
    """
    if name not in OPERATORS:
        raise OperatorError(f"unknown operator '{name}'", remedy=nearest(name, OPERATORS))
    return OPERATORS[name]


def resolve(function: str) -> Callable[..., Any]:
    """The function that a "module:name" of this package stands for."""
    module, _, name = function.partition(":")
    return getattr(import_module(f"shiftbench.shifts.{module}"), name)


def value_at(operator: Operator, level: float) -> float:
    """The value of `operator` at severity `level`, linear between the listed severities; 0 is the identity.

    Where the identity is infinite (SNR) severities below 1 are interpolated in the reciprocal.

    Raises:
        OperatorError: `level` outside 0 to 5, or between two levels of a categorical operator.
    """
    if not 0 <= level <= 5:  # also refuses NaN
        raise OperatorError(f"severity {level}", where=operator.name, remedy="use a severity from 0 to 5")
    low = min(int(level), 4)
    share = level - low
    if not operator.monotone and share not in (0.0, 1.0):
        raise OperatorError(
            f"severity {level}", where=operator.name, remedy="its levels are categories: use a whole number from 0 to 5"
        )
    values = (operator.identity, *operator.levels)
    if share in (0.0, 1.0):
        return values[low + int(share)]
    if math.isinf(values[low]):
        return values[low + 1] / share
    return values[low] + share * (values[low + 1] - values[low])


def check_value(operator: Operator, value: float) -> float:
    """`value` if the operator is defined for it.

    Raises:
        OperatorError: it is not.
    """
    low, high = operator.range
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise OperatorError(
            f"value {value!r}", where=operator.name, remedy=f"use {low:g} to {high:g} {operator.unit}".rstrip()
        )
    return float(value)


def apply(
    name: str,
    image: Any,
    *,
    severity: float | None = None,
    value: float | None = None,
    spacing_mm: tuple[float, ...] | None = None,
    seed: int = 0,
    case: str = "",
    modality: str = "mr",
) -> Any:
    """One operator on one raw image.

    Args:
        name: a key of `OPERATORS` of kind "image".
        image: numpy array or torch tensor, (*s) or (c, *s), two or three spatial axes with slices first, raw units.
        severity: 0 to 5; 0 gives a copy of the input, to the bit.
        value: the value itself, in the operator's unit; exactly one of `severity` and `value` is given.
        spacing_mm: voxel size per spatial axis. Without it three axes are (d, h, w) unless the first has 1 or 3
            entries, which are taken for channels.
        seed: of the draws; severities of one seed and case share their draw.
        case: name of the scan, so that two scans of one seed get different draws.
        modality: mr, ct, rgb or grey.

    Returns:
        An image of the same kind and shape; of the same dtype if that is a floating one, else float32.

    Raises:
        OperatorError: unknown operator, value outside its range, or an image it is not defined for.
        DataError: NaN, infinity or a single value in the image.
        NotApplicable: the image is beyond the level already.
    """
    operator = find(name)
    if (severity is None) == (value is None):
        raise OperatorError("both or neither of severity and value", where=name, remedy="give exactly one")
    if value is None:
        assert severity is not None
        value = value_at(operator, severity)
    else:
        value = check_value(operator, value)
    return resolve("acquisition:apply_to_array")(
        operator,
        None if severity == 0 else value,
        image,
        spacing=None if spacing_mm is None else tuple(float(mm) for mm in spacing_mm),
        key=(seed, "", case),
        modality=modality,
    )
