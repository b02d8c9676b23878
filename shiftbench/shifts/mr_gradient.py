"""Signal equations of gradient echoes: SPGR, water-fat phase, MPRAGE, balanced SSFP. Tensors in, tensors out."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from shiftbench.shifts.mr_maps import GAMMA_HZ_PER_UT, decay, defined, radians

Field = float | np.ndarray | Tensor  # a number, or a map (*s)


def spgr(maps: Mapping[str, Tensor], *, tr_ms: float, te_ms: float, flip_deg: float, b1: Field = 1.0) -> Tensor:
    """Steady-state signal of an ideally spoiled gradient echo (SPGR, FLASH).

    S = PD sin(a) (1 - E1) / (1 - E1 cos(a)) exp(-TE / T2*), with E1 = exp(-TR / T1) and a = b1 * flip angle.

    Args:
        maps: T1_ms, T2star_ms and PD, (*s) each.
        tr_ms: repetition time.
        te_ms: echo time; less than `tr_ms`.
        flip_deg: nominal flip angle.
        b1: relative transmit field, a number or a map (*s).

    Returns:
        Signal relative to that of PD 1 with full relaxation, (*s).

    Raises:
        OperatorError: TR, TE or flip angle outside what the equation is defined for.

    Reference:
        Haase et al., FLASH imaging, J Magn Reson 67:258, 1986.
    """
    defined(
        0 <= te_ms < tr_ms and 0 < flip_deg <= 180,
        f"SPGR with TR {tr_ms} ms, TE {te_ms} ms and flip angle {flip_deg} degrees",
        "use 0 <= TE < TR and a flip angle between 0 and 180 degrees",
    )
    angle = radians(flip_deg, b1, maps["T1_ms"])
    e1 = decay(tr_ms, maps["T1_ms"])
    signal = decay(te_ms, maps["T2star_ms"]).mul_(maps["PD"]).mul_(torch.sin(angle))
    signal.mul_(1 - e1)
    return signal.div_(e1.mul_(-torch.cos(angle)).add_(1))


def ernst_angle_deg(tr_ms: float, t1_ms: float) -> float:
    """Flip angle of the largest SPGR signal of a tissue, acos(exp(-TR / T1)), in degrees."""
    return math.degrees(math.acos(math.exp(-tr_ms / t1_ms)))


def fat_shift_hz(field_t: float, ppm: float = 3.4) -> float:
    """How much slower fat precesses than water: 217 Hz at 1.5 T and 434 Hz at 3 T."""
    return ppm * GAMMA_HZ_PER_UT * field_t


def dixon(
    maps: Mapping[str, Tensor],
    *,
    tr_ms: float,
    te_ms: float,
    flip_deg: float,
    field_t: float,
    fat_ppm: float = 3.4,
    b1: Field = 1.0,
) -> Tensor:
    """Complex SPGR signal of water and fat, W + F exp(-i 2 pi df TE), whose phase difference TE sets.

    Opposed phase is at TE = 1 / (2 df) (2.3 ms at 1.5 T, 1.15 ms at 3 T), in phase at twice that, for any field. Fat
    is one line at `fat_ppm` (its smaller peaks are in the apparent T2* of fat) and shares the voxel's relaxation times.
    The dark rim of organs in fat (India ink) needs the complex signal to be averaged over a voxel before its magnitude.

    Args:
        maps: T1_ms, T2star_ms, PD, and FAT (share of the signal that is of fat).
        field_t: main field.
        fat_ppm: chemical shift between water and the main peak of fat.
        tr_ms, te_ms, flip_deg, b1: as in `spgr`.

    Returns:
        Complex (*s), relative to PD 1 with full relaxation.

    Raises:
        OperatorError: as `spgr`.

    Reference:
        Dixon, Simple proton spectroscopic imaging, Radiology 153:189, 1984.
    """
    both = spgr(maps, tr_ms=tr_ms, te_ms=te_ms, flip_deg=flip_deg, b1=b1)
    phase = 2 * math.pi * fat_shift_hz(field_t, fat_ppm) * te_ms / 1000
    fat = both * maps["FAT"]
    return torch.complex((fat * (math.cos(phase) - 1)).add_(both), fat.mul_(-math.sin(phase)))


def mprage(
    maps: Mapping[str, Tensor],
    *,
    tr_ms: float,
    te_ms: float,
    ti_ms: float,
    flip_deg: float,
    n_readouts: int,
    spacing_ms: float,
    inversion_efficiency: float = 1.0,
    b1: Field = 1.0,
) -> Tensor:
    """Signal at the centre of k-space of a magnetisation-prepared train of spoiled gradient echoes, with its sign.

    An inversion every TR, a train of `n_readouts` excitations `spacing_ms` apart whose middle one is TI after the
    inversion (linear order, the scanner's TR and TI), and free recovery until the next inversion. The inversion is
    adiabatic: the transmit field scales the excitations and not the inversion.

    Args:
        maps: T1_ms, T2star_ms and PD, (*s) each.
        tr_ms: from inversion to inversion.
        te_ms: echo time, less than `spacing_ms`.
        ti_ms: from the inversion to the excitation of the centre of k-space.
        flip_deg: nominal flip angle of the readouts.
        n_readouts: excitations per inversion.
        spacing_ms: from excitation to excitation.
        inversion_efficiency: f, magnetisation after the inversion over that before, with its sign changed.
        b1: relative transmit field, a number or a map (*s).

    Raises:
        OperatorError: the train does not fit between the inversions, or an angle or f is out of range.

    Reference:
        Mugler and Brookeman, Magn Reson Med 15:152, 1990; steady state as in Marques et al., NeuroImage 49:1271, 2010.
    """
    n, k = int(n_readouts), int(n_readouts) // 2
    first = ti_ms - k * spacing_ms
    recovery = tr_ms - first - n * spacing_ms
    defined(
        n >= 1 and 0 <= te_ms < spacing_ms and first >= 0 and recovery >= 0 and 0 < flip_deg <= 180,
        f"MPRAGE with TR {tr_ms} ms, TI {ti_ms} ms, TE {te_ms} ms and {n} readouts every {spacing_ms} ms",
        "use 0 <= TE < the spacing, and a train that fits around TI between two inversions",
    )
    defined(0 <= inversion_efficiency <= 1, f"an inversion efficiency of {inversion_efficiency}", "use 0 to 1")
    t1, f = maps["T1_ms"], float(inversion_efficiency)
    angle = radians(flip_deg, b1, t1)
    et = decay(spacing_ms, t1)
    ei, ed = decay(first, t1), decay(recovery, t1)
    u = et * torch.cos(angle)
    steady = (1 - et).div_(1 - u)  # longitudinal magnetisation that the train tends to
    un, uk = u.pow(n), u.pow(k)
    # just before the inversion, then before the readout of the centre of k-space; both relative to PD
    before = (1 - ed).add_(ed * (un * (1 - ei) + steady * (1 - un))).div_((ed * un).mul_(ei).mul_(f).add_(1))
    at_centre = uk * (1 - ei - before.mul_(ei).mul_(f)) + steady.mul_(1 - uk)
    return at_centre.mul_(torch.sin(angle)).mul_(decay(te_ms, maps["T2star_ms"])).mul_(maps["PD"])


def bssfp(maps: Mapping[str, Tensor], *, tr_ms: float, flip_deg: float, df_hz: Field = 0.0, b1: Field = 1.0) -> Tensor:
    """Complex steady-state signal of balanced SSFP at TE = TR / 2, with phase alternation.

    On resonance S = PD sin(a) (1 - E1) / (1 - (E1 - E2) cos(a) - E1 E2) exp(-TE / T2). Off resonance it falls to dark
    bands at df = 1 / (2 TR) and every 1 / TR from there.

    Args:
        maps: T1_ms, T2_ms and PD, (*s) each.
        tr_ms: repetition time.
        flip_deg: nominal flip angle.
        df_hz: frequency off resonance, a number or a map (*s).
        b1: relative transmit field, a number or a map (*s).

    Returns:
        Complex (*s), relative to PD 1 with full relaxation.

    Raises:
        OperatorError: TR or flip angle out of range.

    Reference:
        Freeman and Hill, J Magn Reson 4:366, 1971; Scheffler and Lehnhardt, Eur Radiol 13:2409, 2003.
    """
    defined(
        tr_ms > 0 and 0 < flip_deg <= 180,
        f"bSSFP with TR {tr_ms} ms and flip angle {flip_deg} degrees",
        "use a positive TR and a flip angle between 0 and 180 degrees",
    )
    t1, t2 = maps["T1_ms"], maps["T2_ms"]
    angle = radians(flip_deg, b1, t1)
    cos, e1, e2 = torch.cos(angle), decay(tr_ms, t1), decay(tr_ms, t2)
    scale = (1 - e1).mul_(maps["PD"]).mul_(torch.sin(angle)).mul_(decay(tr_ms / 2, t2))
    cycles = torch.as_tensor(df_hz, dtype=t1.dtype, device=t1.device) * (tr_ms / 1000)
    turn = cycles * (2 * math.pi) + math.pi  # per TR, with the alternating phase of the pulses
    b = (e1 - 1) * e2 * (1 + cos)
    c = 1 - e1 * cos - (e1 - cos) * e2 * e2
    scale.div_(b * torch.cos(turn) + c)
    rotated = torch.polar(torch.ones_like(cycles), cycles * math.pi)  # precession from the pulse to TE
    return torch.complex(1 - e2 * torch.cos(turn), e2 * torch.sin(turn)) * scale * rotated
