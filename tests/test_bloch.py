"""Signal equations against Bloch simulations to the steady state: rotation and relaxation matrices, no closed form."""

import math

import numpy as np
import pytest
import torch

from shiftbench.shifts import mr_gradient, mr_spin

WHITE = {"T1_ms": 646.0, "T2_ms": 72.0, "T2star_ms": 66.2, "PD": 0.7}
CSF = {"T1_ms": 4300.0, "T2_ms": 2000.0, "T2star_ms": 1000.0, "PD": 1.0}
FAT = {"T1_ms": 343.0, "T2_ms": 58.0, "T2star_ms": 30.0, "PD": 0.95}
TISSUES = [WHITE, CSF, FAT]
names = pytest.mark.parametrize("tissue", TISSUES, ids=["white matter", "csf", "fat"])

Step = tuple[np.ndarray, np.ndarray]  # M -> A M + b


def maps_of(tissue: dict[str, float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in tissue.items()}


def pulse(degrees: float, phase: float = 0.0) -> Step:
    """A rotation about the axis at `phase` in the transverse plane."""
    a = math.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, math.cos(a), math.sin(a)], [0, -math.sin(a), math.cos(a)]])
    turn = np.array([[math.cos(phase), -math.sin(phase), 0], [math.sin(phase), math.cos(phase), 0], [0, 0, 1]])
    return turn @ about_x @ turn.T, np.zeros(3)


def wait(ms: float, tissue: dict[str, float], df_hz: float = 0.0) -> Step:
    """Relaxation towards PD and precession."""
    e1, e2 = math.exp(-ms / tissue["T1_ms"]), math.exp(-ms / tissue["T2_ms"])
    turn = 2 * math.pi * df_hz * ms / 1000
    c, s = e2 * math.cos(turn), e2 * math.sin(turn)
    return np.array([[c, s, 0], [-s, c, 0], [0, 0, e1]]), np.array([0, 0, tissue["PD"] * (1 - e1)])


CRUSH: Step = (np.diag([0.0, 0.0, 1.0]), np.zeros(3))


def invert(efficiency: float) -> Step:
    return np.diag([0.0, 0.0, -efficiency]), np.zeros(3)


def chained(steps: list[Step]) -> Step:
    a, b = np.eye(3), np.zeros(3)
    for matrix, offset in steps:
        a, b = matrix @ a, matrix @ b + offset
    return a, b


def steady(repetition: list[Step]) -> np.ndarray:
    """The magnetisation before a repetition that brings back itself: after 2^24 of them."""
    a, b = chained(repetition)
    for _ in range(24):
        a, b = a @ a, a @ b + b
    return b


def after(m: np.ndarray, steps: list[Step]) -> np.ndarray:
    a, b = chained(steps)
    return a @ m + b


def refocused(degrees: float) -> Step:
    """A crushed refocusing pulse on the coherences that form an echo: the mean over the crusher's dephasing."""
    a, _ = pulse(degrees)
    mean, phases = np.zeros((3, 3)), np.linspace(0, 2 * math.pi, 64, endpoint=False)
    for phase in phases:
        spread = np.array([[math.cos(phase), -math.sin(phase), 0], [math.sin(phase), math.cos(phase), 0], [0, 0, 1]])
        mean += spread @ a @ spread / len(phases)
    return mean, np.zeros(3)


@names
@pytest.mark.parametrize("flip", [3, 20, 80, 90, 120])
@pytest.mark.parametrize(("tr", "te"), [(20, 4), (150, 4.6), (600, 12)])
def test_spgr_is_the_steady_state_of_ideal_spoiling(tissue, flip, tr, te):
    m = steady([pulse(flip), wait(tr, tissue), CRUSH])
    excited = after(m, [pulse(flip)])
    expected = math.hypot(excited[0], excited[1]) * math.exp(-te / tissue["T2star_ms"])
    got = mr_gradient.spgr(maps_of(tissue), tr_ms=tr, te_ms=te, flip_deg=flip)
    assert float(got) == pytest.approx(expected, rel=1e-9)


@names
@pytest.mark.parametrize("b1", [1.0, 0.8, 1.15])
@pytest.mark.parametrize(("tr", "te"), [(500, 12), (4000, 90)])
def test_se_is_the_steady_state_of_a_crushed_spin_echo_under_any_transmit_field(tissue, b1, tr, te):
    echo = [pulse(90 * b1), wait(te / 2, tissue), refocused(180 * b1), wait(te / 2, tissue)]
    m = steady([*echo, wait(tr - te, tissue), CRUSH])
    at_echo = after(m, echo)
    got = mr_spin.se(maps_of(tissue), tr_ms=tr, te_ms=te, b1=b1)
    assert float(got) == pytest.approx(math.hypot(at_echo[0], at_echo[1]), rel=1e-9)


@names
def test_fse_keeps_the_longitudinal_magnetisation_of_its_whole_train(tissue):
    tr, esp, etl, number = 2000, 10, 8, 5
    echo = [wait(esp / 2, tissue), refocused(180), wait(esp / 2, tissue)]
    m = steady([pulse(90), *echo * etl, wait(tr - etl * esp, tissue), CRUSH])
    at_echo = after(m, [pulse(90), *echo * number])
    got = mr_spin.fse(maps_of(tissue), tr_ms=tr, te_ms=number * esp, etl=etl, esp_ms=esp)
    assert float(got) == pytest.approx(math.hypot(at_echo[0], at_echo[1]), rel=1e-9)


@pytest.mark.parametrize("tissue", [WHITE, CSF], ids=["white matter", "csf"])
@pytest.mark.parametrize("b1", [0.8, 0.9, 1.1])
def test_a_late_echo_of_an_imperfect_train_is_within_five_per_cent_of_all_its_pathways(tissue, b1):
    tr, esp, etl, number = 4000, 10, 16, 9
    spins = 200  # dephasing between refocusing pulses, of spins spread evenly over one turn
    spread = np.exp(2j * math.pi * (np.arange(spins) + 0.5) / spins)
    e1, e2 = math.exp(-esp / 2 / tissue["T1_ms"]), math.exp(-esp / 2 / tissue["T2_ms"])
    a, beta, pd = math.radians(90 * b1), math.radians(180 * b1), tissue["PD"]
    z, seen = np.full(spins, pd), 0.0
    for _ in range(12):
        z = np.full(spins, z.mean())  # spoiled
        m, z = z * math.sin(a) + 0j, z * math.cos(a)
        for k in range(1, etl + 1):
            m, z = m * e2 * spread, pd + (z - pd) * e1
            m, z = (  # about the axis along which the excitation left m (CPMG)
                m.real + 1j * (m.imag * math.cos(beta) - z * math.sin(beta)),
                m.imag * math.sin(beta) + z * math.cos(beta),
            )
            m, z = m * e2 * spread, pd + (z - pd) * e1
            if k == number:
                seen = abs(m.mean())
        z = pd + (z - pd) * math.exp(-(tr - etl * esp) / tissue["T1_ms"])
    got = mr_spin.fse(maps_of(tissue), tr_ms=tr, te_ms=number * esp, etl=etl, esp_ms=esp, b1=b1)
    assert float(got) == pytest.approx(seen, rel=0.05)
    assert seen != pytest.approx(float(mr_spin.fse(maps_of(tissue), tr_ms=tr, te_ms=90, etl=etl, esp_ms=esp)), rel=0.01)


@names
@pytest.mark.parametrize(("efficiency", "b1"), [(1.0, 1.0), (0.95, 1.0), (0.95, 0.85)])
@pytest.mark.parametrize(("tr", "te", "ti"), [(9000, 120, 2500), (5000, 40, 238), (1500, 12, 400)])
def test_inversion_recovery_is_the_steady_state_with_its_sign(tissue, efficiency, b1, tr, te, ti):
    echo = [pulse(90 * b1), wait(te / 2, tissue), refocused(180 * b1), wait(te / 2, tissue)]
    start = [invert(efficiency), wait(ti, tissue)]
    m = steady([*start, *echo, wait(tr - ti - te, tissue), CRUSH])
    before = after(m, start)
    at_echo = after(m, [*start, *echo])
    expected = math.copysign(math.hypot(at_echo[0], at_echo[1]), before[2])
    got = mr_spin.ir(maps_of(tissue), tr_ms=tr, te_ms=te, ti_ms=ti, inversion_efficiency=efficiency, b1=b1)
    assert float(got) == pytest.approx(expected, rel=1e-9)


@names
@pytest.mark.parametrize(("efficiency", "b1"), [(1.0, 1.0), (0.96, 1.0), (0.9, 0.8)])
@pytest.mark.parametrize(
    ("tr", "ti", "n", "spacing"), [(2300, 900, 176, 7.1), (1800, 500, 64, 8.0), (2000, 700, 1, 9.0)]
)
def test_mprage_is_the_steady_state_of_inversions_and_trains(tissue, efficiency, b1, tr, ti, n, spacing):
    flip, te, k = 9.0, 3.0, n // 2
    first = ti - k * spacing
    readout = [pulse(flip * b1), wait(spacing, tissue), CRUSH]
    start = [invert(efficiency), wait(first, tissue), CRUSH]
    m = steady([*start, *readout * n, wait(tr - first - n * spacing, tissue), CRUSH])
    ready = after(m, [*start, *readout * k])
    excited = after(ready, [pulse(flip * b1)])
    expected = math.copysign(math.hypot(excited[0], excited[1]), ready[2]) * math.exp(-te / tissue["T2star_ms"])
    got = mr_gradient.mprage(
        maps_of(tissue),
        tr_ms=tr,
        te_ms=te,
        ti_ms=ti,
        flip_deg=flip,
        n_readouts=n,
        spacing_ms=spacing,
        inversion_efficiency=efficiency,
        b1=b1,
    )
    assert float(got) == pytest.approx(expected, rel=1e-9)


@names
@pytest.mark.parametrize("flip", [15, 60, 110])
@pytest.mark.parametrize("df", [0.0, 20.0, 90.0, 155.0, 300.0, -70.0])
def test_bssfp_is_the_balanced_steady_state_off_resonance_too(tissue, flip, df):
    tr = 3.2
    # two pulses of opposite phase make one repetition of the fixed frame
    m = steady([pulse(flip), wait(tr, tissue, df), pulse(-flip), wait(tr, tissue, df)])
    at_te = after(m, [pulse(flip), wait(tr / 2, tissue, df)])
    got = mr_gradient.bssfp(maps_of(tissue), tr_ms=tr, flip_deg=flip, df_hz=df)
    assert float(got.abs()) == pytest.approx(math.hypot(at_te[0], at_te[1]), rel=1e-6)
    other = mr_gradient.bssfp(maps_of(tissue), tr_ms=tr, flip_deg=flip, df_hz=0.0)
    reference = after(steady([pulse(flip), wait(tr, tissue), pulse(-flip), wait(tr, tissue)]), [pulse(flip)])
    turned = complex(*at_te[:2]) / complex(*reference[:2])  # phase against resonance, but for the sense of rotation
    assert abs(np.angle(turned)) == pytest.approx(abs(float(torch.angle(got / other))), abs=1e-6)
