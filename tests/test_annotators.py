"""Random annotator noise: a control with measured magnitudes."""

import numpy as np
import pytest

from shiftbench.errors import OperatorError
from shiftbench.rng import generator
from shiftbench.shifts.annotators import ANNOTATOR_NOISES, _smooth_field, annotator_noise
from shiftbench.shifts.distances import pieces
from shiftbench.shifts.effects import protocol_effects
from shiftbench.types import Family

STRUCTURES = ("organ", "lesion")
MM = (1.0, 1.0, 1.0)


def patient(lesions=12, seed=0):
    """An organ (30, 60, 60) with balls of 1 to 3 mm radius in it, none touching another."""
    z, y, x = np.meshgrid(np.arange(30), np.arange(60), np.arange(60), indexing="ij", sparse=True)
    out = ((np.abs(z - 15) < 12) & (np.abs(y - 30) < 25) & (np.abs(x - 30) < 25)).astype(np.uint8)
    for i in range(lesions):
        at = 9 + 12 * (i // 8), 12 + 12 * (i // 2 % 4), 15 + 28 * (i % 2)
        out[(z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2 <= (1 + i % 3) ** 2] = 2
    return out


def noisy(name, value, seed=0, reference=None, spacing=MM):
    reference = patient() if reference is None else reference
    rng = generator(seed, "annotator", name)
    return annotator_noise(reference, STRUCTURES, spacing, name, value, rng, things=("lesion",))


@pytest.mark.parametrize("name", ANNOTATOR_NOISES)
def test_noise_is_a_control_and_zero_is_the_identity(name):
    noise = ANNOTATOR_NOISES[name]
    assert noise.family is Family.CONTROL and noise.version >= 1 and len(noise.levels) == 5
    before = patient()
    assert noisy(name, 0.0).tobytes() == before.tobytes()
    strongest = noisy(name, noise.levels[-1], reference=before)
    assert strongest.tobytes() == noisy(name, noise.levels[-1]).tobytes() and strongest.dtype == np.uint8
    assert before.tobytes() == patient().tobytes() != strongest.tobytes()
    assert strongest.tobytes() != noisy(name, noise.levels[-1], seed=1).tobytes()


@pytest.mark.parametrize("name", ANNOTATOR_NOISES)
def test_severities_share_their_draws_and_grow(name):
    changed = [noisy(name, level) != patient() for level in ANNOTATOR_NOISES[name].levels]
    counts = [int(c.sum()) for c in changed]
    assert counts == sorted(counts) and counts[-1] > counts[0]
    kept = [(a & b).sum() / a.sum() for a, b in zip(changed[:-1], changed[1:], strict=True) if a.any()]
    assert min(kept) > 0.5


def test_a_contour_is_displaced_by_as_many_mm_as_asked_for():
    half = np.zeros((24, 80, 80), np.uint8)
    half[:, :, :40] = 1
    for value in (1.0, 2.0, 3.0):
        outs = [noisy("boundary_mm", value, seed, half, (1.0, 1.0, 0.5)) for seed in range(12)]
        edges = [0.5 * ((out == 1).sum(axis=2) - 40.0) for out in outs]  # mm, not voxels
        rms = np.sqrt(np.mean(np.square(edges)))
        assert rms == pytest.approx(value, rel=0.15) and abs(np.mean(edges)) < 0.6 * value
        near = np.corrcoef(np.ravel([e[:, :-3] for e in edges]), np.ravel([e[:, 3:] for e in edges]))[0, 1]
        far = np.corrcoef(np.ravel([e[:, :-50] for e in edges]), np.ravel([e[:, 50:] for e in edges]))[0, 1]
        assert near > 0.8 > 0.4 > abs(far)


def test_the_displacement_is_the_same_field_on_every_grid():
    fine = _smooth_field((32, 48, 48), (1.0, 1.0, 1.0), generator(0))
    coarse = _smooth_field((16, 24, 24), (2.0, 2.0, 2.0), generator(0))
    blocks = fine.reshape(16, 2, 24, 2, 24, 2).mean(axis=(1, 3, 5))
    assert np.abs(coarse - blocks).max() < 0.03
    spread = np.std([_smooth_field((6, 30, 30), MM, generator(i)) for i in range(60)], axis=0)
    assert spread.mean() == pytest.approx(1.0, abs=0.05)


def test_neighbours_keep_their_border():
    pair = np.zeros((12, 40, 40), np.uint8)
    pair[:, 8:32, 6:20], pair[:, 8:32, 20:34] = 1, 2
    out = noisy("boundary_mm", 3.0, reference=pair)
    assert out[6, 20, 12:28].all()


def test_slices_are_shifted_in_plane_one_by_one():
    block = np.zeros((40, 50, 50), np.uint8)
    block[:, 20:30, 18:32] = 1
    out = noisy("slice_jitter_mm", 2.0, reference=block, spacing=(5.0, 1.0, 1.0))
    assert (out.sum(axis=(1, 2)) == 140).all()  # each contour keeps its shape
    centres = np.array([np.mean(np.nonzero(s), axis=1) for s in out]) - np.array([24.5, 24.5])
    assert np.std(centres) == pytest.approx(2.0, rel=0.2)
    assert abs(np.corrcoef(centres[:-1, 0], centres[1:, 0])[0, 1]) < 0.4
    picture = noisy("slice_jitter_mm", 3.0, seed=2, reference=block[0], spacing=(1.0, 1.0))
    assert picture.sum() == 140 and (picture != block[0]).any()


def test_small_lesions_are_missed_more_often_and_fall_to_the_organ():
    rates = np.zeros(3)
    for seed in range(40):
        out = noisy("missed_share", 0.8, seed)
        assert ((out > 0) == (patient() > 0)).all()
        labels = pieces(patient() == 2)
        for size, rate in ((7, 0), (33, 1), (123, 2)):
            own = [n for n in range(1, 13) if (labels == n).sum() == size]
            rates[rate] += np.mean([(out[labels == n] != 2).all() for n in own]) / 40
    assert rates == pytest.approx([0.8 * 0.5 ** (v / 64) for v in (7, 33, 123)], abs=0.09)


def test_false_lesions_are_drawn_inside_the_organ_and_counted():
    extra = []
    for seed in range(30):
        out = noisy("false_share", 0.4, seed)
        assert ((out > 0) == (patient() > 0)).all() and (out[patient() == 2] == 2).all()
        extra.append(int((out == 2).sum() - (patient() == 2).sum()))
    assert np.mean([e > 0 for e in extra]) > 0.9
    assert np.mean(extra) / (12 * 0.4) == pytest.approx((64 - 3) / np.log(64 / 3), rel=0.3)  # mean of a log-uniform
    nothing = np.zeros((4, 8, 8), np.uint8)
    assert (
        not noisy("false_share", 0.8, reference=nothing).any()
        and not noisy("boundary_mm", 3.0, reference=nothing).any()
    )


def test_noise_has_no_bias_that_a_model_could_learn():
    changes = [
        protocol_effects(patient(0), noisy("boundary_mm", 2.0, seed, patient(0)), STRUCTURES, MM)["organ"]
        for seed in range(20)
    ]
    assert abs(np.mean([c["volume_change_percent"] for c in changes])) < 3.0
    assert np.mean([c["shift_mean_mm"] for c in changes]) > 0.8


def test_a_noise_that_cannot_be_is_refused():
    with pytest.raises(OperatorError, match="did you mean 'boundary_mm'"):
        noisy("boundary", 1.0)
    for value in (-1.0, 99.0, float("nan")):
        with pytest.raises(OperatorError, match="use a value from 0 to 10 mm"):
            noisy("boundary_mm", value)
    with pytest.raises(OperatorError, match="missed_share: no structure is made of lesions"):
        annotator_noise(patient(), STRUCTURES, MM, "missed_share", 0.5, generator(0))
