"""Signal equations of spin echoes: SE, FSE, inversion recovery, diffusion. Tensors in, tensors out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shiftbench.shifts.mr_maps import decay, defined, radians

Field = float | np.ndarray | Tensor  # a number, or a map (*s)


class Inversion(NamedTuple):
    """An adiabatic inversion `ti_ms` before the excitation: M after it is -efficiency times M before it."""

    ti_ms: float
    efficiency: float = 1.0


def se(maps: Mapping[str, Tensor], *, tr_ms: float, te_ms: float, b1: Field = 1.0) -> Tensor:
    """Steady-state signal of a spin echo, PD (1 - 2 exp(-(TR - TE/2) / T1) + exp(-TR / T1)) exp(-TE / T2).

    That is for pulses of 90 and 180 degrees; a transmit field scales both, and crushers leave the pathway of the spin
    echo alone: S = M sin(90 b1) sin2(90 b1) exp(-TE / T2), with M the longitudinal magnetisation in the steady state.

    Args:
        maps: T1_ms, T2_ms and PD, (*s) each.
        tr_ms: repetition time.
        te_ms: echo time, less than `tr_ms`.
        b1: relative transmit field, a number or a map (*s).

    Returns:
        Signal relative to that of PD 1 with full relaxation, (*s).

    Raises:
        OperatorError: TE is not between 0 and TR.

    Reference:
        Bernstein, King and Zhou, Handbook of MRI Pulse Sequences, 2004, section 14.3.
    """
    return _echo(maps, tr_ms, te_ms, 1, te_ms, b1, None)


def fse(maps: Mapping[str, Tensor], *, tr_ms: float, te_ms: float, etl: int, esp_ms: float, b1: Field = 1.0) -> Tensor:
    """Steady-state signal of a fast spin echo (RARE, TSE) at its effective echo time.

    The longitudinal magnetisation goes through every refocusing pulse of the train. Under a transmit field the echo
    that fills the centre of k-space has the amplitude sin2(90 b1) if it is the first, and that of the pseudo steady
    state of a CPMG train, sin(90 b1), if it is a later one: within 5 % of the sum over all pathways from 80 % to 115 %
    of the angle. The blurring of the train is `fse_psf`.

    Args:
        maps: T1_ms, T2_ms and PD, (*s) each.
        tr_ms: repetition time.
        te_ms: effective echo time, between `esp_ms` and `etl * esp_ms`.
        etl: echoes per excitation.
        esp_ms: from echo to echo.
        b1: relative transmit field, a number or a map (*s).

    Raises:
        OperatorError: the effective echo time is not within the train, or the train not within TR.

    Reference:
        Hennig, Nauerth and Friedburg, Magn Reson Med 3:823, 1986; amplitudes: Hennig, J Magn Reson 78:397, 1988.
    """
    return _echo(maps, tr_ms, te_ms, int(etl), esp_ms, b1, None)


def ir(
    maps: Mapping[str, Tensor],
    *,
    tr_ms: float,
    te_ms: float,
    ti_ms: float,
    inversion_efficiency: float = 1.0,
    etl: int = 1,
    esp_ms: float | None = None,
    b1: Field = 1.0,
) -> Tensor:
    """Steady-state signal of an inversion recovery with a spin echo or a train of them (IR, FLAIR, STIR), signed.

    PD (1 - (1 + f) exp(-TI / T1) + f exp(-(TR - TElast) / T1)) exp(-TE / T2) where the readout leaves no longitudinal
    magnetisation behind (it leaves about (TE / 2 T1)^2, which is taken into account); with f = 1 the equation of the
    textbooks. f is -M after / M before the inversion. The inversion is adiabatic, so the transmit field scales the
    excitation and the refocusing and not the inversion. The magnitude of a voxel is taken after its mean.

    Args:
        maps: T1_ms, T2_ms and PD, (*s) each.
        tr_ms: from inversion to inversion.
        te_ms: (effective) echo time.
        ti_ms: from the inversion to the excitation.
        inversion_efficiency: f, 0 to 1.
        etl: echoes per excitation.
        esp_ms: from echo to echo; `te_ms` where it is None.
        b1: relative transmit field, a number or a map (*s).

    Raises:
        OperatorError: TI and the readout do not fit into TR, or f is out of range.

    Reference:
        Hajnal et al., J Comput Assist Tomogr 16:841, 1992 (FLAIR); Bydder and Young, ibid. 9:659, 1985 (STIR).
    """
    spacing = te_ms if esp_ms is None else esp_ms
    return _echo(maps, tr_ms, te_ms, int(etl), spacing, b1, Inversion(ti_ms, float(inversion_efficiency)))


def null_ti_ms(t1_ms: float, tr_ms: float, last_echo_ms: float = 0.0, inversion_efficiency: float = 1.0) -> float:
    """Inversion time at which a tissue gives no signal: T1 ln[(1 + f) / (1 + f exp(-(TR - TElast) / T1))]."""
    f = inversion_efficiency
    return t1_ms * math.log((1 + f) / (1 + f * math.exp(-(tr_ms - last_echo_ms) / t1_ms)))


def dwi(
    maps: Mapping[str, Tensor],
    *,
    tr_ms: float,
    te_ms: float,
    b_s_mm2: float,
    kurtosis: float = 0.0,
    b1: Field = 1.0,
) -> Tensor:
    """Signal of a diffusion-weighted spin echo (SE-EPI), S0 exp(-b D + b2 D2 K / 6).

    The expansion in b ends where it would rise again: b D is at most 3 / K.

    Args:
        maps: T1_ms, T2_ms, PD and ADC (1e-3 mm2/s), (*s) each.
        b_s_mm2: diffusion weighting b.
        kurtosis: K, of every tissue.
        tr_ms, te_ms, b1: as in `se`.

    Raises:
        OperatorError: TE is not between 0 and TR, or b or K is negative.

    Reference:
        Stejskal and Tanner, J Chem Phys 42:288, 1965; Jensen et al., Magn Reson Med 53:1432, 2005.
    """
    defined(b_s_mm2 >= 0 and kurtosis >= 0, f"diffusion with b {b_s_mm2} and K {kurtosis}", "use numbers from 0 up")
    signal = se(maps, tr_ms=tr_ms, te_ms=te_ms, b1=b1)
    weight = maps["ADC"] * (b_s_mm2 / 1000)
    if not kurtosis:
        return signal.mul_(weight.neg_().exp_())
    weight.clamp_(max=3 / kurtosis)
    return signal.mul_((weight * (kurtosis / 6)).sub_(1).mul_(weight).exp_())


def fse_psf(
    t2_ms: float, esp_ms: float, etl: int, n: int, *, te_ms: float, device: torch.device | str = "cpu"
) -> Tensor:
    """Weight of each line of k-space from the T2 decay along an echo train, (n,), the centre of k-space first.

    One T2 stands for the whole image: weights per tissue would need a transform for each. Take the T2 of the tissue
    that is segmented, or of the reference tissue. Lines are laid out as by `torch.fft.fftfreq(n)`. They are collected
    in `etl` bands of neighbouring lines, in the order of the echoes, such that the echo at `te_ms` fills the band about
    the centre (linear order; what is over at one end is wrapped to the other). Its weight is 1, as the decay until
    `te_ms` is in the signal equation: late echoes blur, early ones enhance edges.

    Raises:
        OperatorError: the effective echo time is not within the train.

    Reference:
        Constable and Gore, The loss of small objects in variable TE imaging, Magn Reson Med 28:9, 1992.
    """
    defined(
        t2_ms > 0 and etl >= 1 and n >= 1 and 0.999 * esp_ms <= te_ms <= 1.0001 * etl * esp_ms,
        f"an echo train of {etl} echoes every {esp_ms} ms with an effective TE of {te_ms} ms",
        "use an echo time within the train",
    )
    centre = min(max(round(te_ms / esp_ms), 1), etl)
    lines = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=device)
    bands = torch.floor(lines * etl / n + 0.5)
    echo = torch.remainder(bands + (centre - 1), etl) + 1
    return torch.exp((centre - echo) * (esp_ms / t2_ms)).to(torch.float32)


def _echo(
    maps: Mapping[str, Tensor],
    tr_ms: float,
    te_ms: float,
    etl: int,
    esp_ms: float,
    b1: Field,
    inversion: Inversion | None,
) -> Tensor:
    _check_train(tr_ms, te_ms, etl, esp_ms, inversion)
    t1 = maps["T1_ms"]
    excitation, refocusing = radians(90.0, b1, t1), radians(180.0, b1, t1)
    flip = torch.sin(excitation)
    echo = torch.sin(refocusing / 2)
    amplitude = flip * echo * echo if te_ms < 1.5 * esp_ms else flip * echo
    signal = _before_excitation(t1, tr_ms, etl, esp_ms, torch.cos(excitation), torch.cos(refocusing), inversion)
    return signal.mul_(decay(te_ms, maps["T2_ms"])).mul_(maps["PD"]).mul_(amplitude)


def _before_excitation(
    t1: Tensor, tr_ms: float, etl: int, esp_ms: float, excite: Tensor, refocus: Tensor, inversion: Inversion | None
) -> Tensor:
    """Longitudinal magnetisation before the excitation in the steady state, relative to PD, (*s).

    Every step of a repetition is linear in it, so M = p + q M is solved for M. `excite` and `refocus` are the cosines
    of the angles.
    """
    ti = 0.0 if inversion is None else inversion.ti_ms
    half = decay(esp_ms / 2, t1)
    rest = decay(tr_ms - ti - (etl - 0.5) * esp_ms, t1)
    q = half * (refocus * excite)  # through the first refocusing pulse
    p = (1 - half).mul_(refocus)
    if etl > 1:  # and through those after it
        gap = decay(esp_ms, t1)
        turn = gap * refocus
        power = turn.pow(etl - 1)
        p = p.mul_(power).add_((1 - gap).mul_(refocus).mul_(1 - power).div_(1 - turn))
        q.mul_(power)
    p.sub_(1).mul_(rest).add_(1)
    q.mul_(rest)
    if inversion is None:
        return p.div_(1 - q)
    ei = decay(ti, t1)
    f = inversion.efficiency
    return p.mul_(f).add_(1).mul_(-ei).add_(1).div_(q.mul_(ei).mul_(f).add_(1))


def _check_train(tr_ms: float, te_ms: float, etl: int, esp_ms: float, inversion: Inversion | None) -> None:
    last = etl * esp_ms
    described: dict[str, Any] = {"TR": tr_ms, "TE": te_ms}
    if etl > 1:
        described["echo train"] = last
    if inversion is not None:
        described["TI"] = inversion.ti_ms
        defined(0 <= inversion.efficiency <= 1, f"an inversion efficiency of {inversion.efficiency}", "use 0 to 1")
    words = ", ".join(f"{name} {value:g} ms" for name, value in described.items())
    ti = 0.0 if inversion is None else inversion.ti_ms
    defined(
        etl >= 1 and 0 < te_ms <= last * 1.0001 and te_ms >= 0.999 * esp_ms and ti >= 0 and ti + last < tr_ms,
        f"a spin echo with {words}",
        "use 0 < TE, an echo time within the train, and TI and train shorter than TR",
    )
