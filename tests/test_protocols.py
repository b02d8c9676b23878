"""What annotators draw under a protocol."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shiftbench.errors import SpecError
from shiftbench.shifts import PROTOCOLS
from shiftbench.shifts.effects import protocol_effects
from shiftbench.shifts.protocol import check_protocol, reference
from shiftbench.shifts.regions import without_small

FINE = ("outside", "body", "liver", "hilum", "vessel", "tumour", "kidney")
MEMBERS = {"liver": ("liver", "tumour"), "tumour": ("tumour",), "kidney": ("kidney",)}
OPTIONAL = {"hilum": ("liver", "hilum"), "vessel": ("liver", "vessels")}
RULES_IN_USE = {"hilum", "vessels"}
STRUCTURES = ("liver", "tumour", "kidney")
LIVER, TUMOUR, KIDNEY = 1, 2, 3
SPACING = (2.0, 1.0, 1.0)


def abdomen():
    """Fine labels and instances (16, 48, 56): liver with hilum, vessel and two tumours, and a kidney beside it."""
    z, y, x = np.meshgrid(np.arange(16) * 2.0, np.arange(48.0), np.arange(56.0), indexing="ij")

    def ball(cz, cy, cx, r):
        return (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < r**2

    fine, instances = np.ones(z.shape, np.int16), np.zeros(z.shape, np.int16)
    fine[ball(15, 22, 22, 14)] = 2
    fine[ball(15, 22, 12, 5)] = 3
    fine[(np.abs(y - 30) < 2) & (np.abs(z - 15) < 3) & (fine == 2)] = 4
    fine[(np.abs(x - 42) < 5.5) & (np.abs(y - 22) < 8) & (np.abs(z - 15) < 9)] = 6
    for i, (where, r) in enumerate([((15, 18, 26), 4.0), ((19, 16, 18), 1.5)], start=1):
        fine[ball(*where, r)], instances[ball(*where, r)] = 5, i
    return fine, instances


def drawn(protocol, *, structures=STRUCTURES, spacing=SPACING, optional=OPTIONAL, labels=None, **more):
    fine, instances = labels or abdomen()
    return reference(
        fine,
        instances,
        fine_labels=FINE,
        members=MEMBERS,
        optional_members=optional,
        structures=structures,
        protocol=protocol,
        spacing=spacing,
        **more,
    )


def dsc(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_structures_are_numbered_in_the_order_given_and_later_ones_lie_on_top():
    fine, _ = abdomen()
    out = drawn({})
    assert out.dtype == np.uint8 and set(np.unique(out)) == {0, 1, 2, 3}
    assert ((out == TUMOUR) == (fine == 5)).all() and ((out == KIDNEY) == (fine == 6)).all()
    assert ((drawn({}, structures=("kidney",)) == 1) == (fine == 6)).all()
    alone = drawn({}, structures=("liver",))
    assert ((alone == 1) == np.isin(fine, (2, 4, 5))).all()  # a lesion that is not segmented is liver


@pytest.mark.parametrize(("rule", "label"), [("hilum", 3), ("vessels", 4)])
def test_a_sub_structure_rule_changes_its_own_voxels_and_no_other(rule, label):
    fine, _ = abdomen()
    inside, outside = drawn({rule: "included"}), drawn({rule: "excluded"})
    assert ((inside != outside) == (fine == label)).all()
    assert (inside[fine == label] == LIVER).all() and (outside[fine == label] == 0).all()


def test_the_defaults_are_those_of_the_table():
    default = {name: rule.default for name, rule in PROTOCOLS.items()}
    assert check_protocol({}, OPTIONAL) == default
    known = {name: value for name, value in default.items() if not PROTOCOLS[name].substructure or name in RULES_IN_USE}
    assert len(known) > 25 and drawn({}).tobytes() == drawn(known).tobytes()


BALLS = {5: (0.73, 0.53, 0.22), 10: (0.86, 0.73, 0.46), 20: (0.93, 0.86, 0.68), 40: (0.96, 0.93, 0.83)}  # +1, +2, +5 mm


@pytest.mark.parametrize("radius", BALLS)
def test_a_margin_on_a_ball_costs_what_geometry_says(radius):
    side = 0.5  # an eighth of the ball: the edge of the image is no surface
    grid = np.meshgrid(*((np.arange(int((radius + 7) / side)) + 0.5) * side,) * 3, indexing="ij", sparse=True)
    fine = np.where(sum(g**2 for g in grid) < radius**2, 6, 1).astype(np.int16)
    plain, *moved = (
        drawn({"margin_mm": m}, structures=("kidney",), spacing=(side,) * 3, labels=(fine, None))
        for m in (0.0, 1.0, 2.0, 5.0)
    )
    for out, margin, agreement in zip(moved, (1, 2, 5), BALLS[radius], strict=True):
        effect = protocol_effects(plain, out, ("kidney",), (side,) * 3)["kidney"]
        assert effect["agreement"] == pytest.approx(agreement, abs=0.02)
        assert effect["volume_change_percent"] == pytest.approx(100 * ((1 + margin / radius) ** 3 - 1), rel=0.08)
        assert effect["shift_mean_mm"] == pytest.approx(margin, abs=side / 2)
        assert margin - side / 2 < effect["shift_p95_mm"] < margin + side


def test_a_margin_is_in_mm_along_every_axis():
    fine = np.ones((21, 41, 41), np.int16)
    fine[10, 20, 20] = 6
    out = drawn({"margin_mm": 4.0}, structures=("kidney",), labels=(fine, None)) == 1
    assert [int(out.any(axis=axes).sum()) for axes in ((1, 2), (0, 2), (0, 1))] == [5, 9, 9]
    in_pixels = drawn({"margin_mm": 4.0}, structures=("kidney",), labels=(fine, None), spacing=None) == 1
    assert [int(in_pixels.any(axis=axes).sum()) for axes in ((1, 2), (0, 2), (0, 1))] == [9, 9, 9]


def test_a_growing_margin_overwrites_no_neighbour_and_a_shrinking_one_opens_gaps():
    plain, grown, shrunk = (drawn({"margin_mm": m}) for m in (0.0, 3.0, -3.0))
    kept = grown == plain
    assert kept[plain == KIDNEY].all() and (grown > 0).sum() > (plain > 0).sum()
    assert (grown[(plain == LIVER) & ~kept] == TUMOUR).all()  # a lesion grows within its organ
    assert (grown == TUMOUR).sum() > 1.5 * (plain == TUMOUR).sum()
    assert ((shrunk == LIVER) & (plain == 0)).sum() == 0
    assert (shrunk == KIDNEY).sum() < (plain == KIDNEY).sum()
    lost = (plain == TUMOUR) & (shrunk != TUMOUR)
    assert lost.any() and (shrunk[lost] == LIVER).all()  # what the lesion gives up lies in its organ
    gain = (grown > 0).sum() - (plain > 0).sum()
    assert gain != (plain > 0).sum() - (shrunk > 0).sum()


def test_a_margin_is_clipped_to_structures_that_are_not_segmented():
    fine, _ = abdomen()
    grown = drawn({"margin_mm": 8.0}, structures=("liver",))
    assert (grown == 1).sum() > (drawn({}, structures=("liver",)) == 1).sum()
    assert not (grown[fine == 6] == 1).any()


def test_small_lesions_are_not_drawn_and_fall_to_their_organ():
    fine, instances = abdomen()
    sizes = [int((instances == i).sum()) * 2 for i in (1, 2)]
    assert sizes[0] > 125 > sizes[1] > 3
    out = drawn({"min_lesion_mm3": 125.0})
    assert ((out == TUMOUR) == (instances == 1)).all() and (out[instances == 2] == LIVER).all()
    assert drawn({"min_lesion_mm3": 3.0}).tobytes() == drawn({}).tobytes()
    by_piece = drawn({"min_lesion_mm3": 125.0}, labels=(fine, None), things=("tumour",))
    assert by_piece.tobytes() == out.tobytes()


def test_diagonal_neighbours_are_one_lesion_and_instances_are_kept_apart():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    assert without_small(mask, None, 2.0, (1.0,) * 3).sum() == 2
    ids = np.zeros(mask.shape, np.int16)
    ids[0, 0, 0], ids[1, 1, 1] = 1, 2
    assert without_small(mask, ids, 2.0, (1.0,) * 3).sum() == 0


def test_the_smallest_lesion_is_a_volume_in_mm3_and_in_2d_its_great_disc():
    mask = np.zeros((4, 8, 8), bool)
    mask[1, 1, 1] = mask[3, 4:6, 4:6] = True
    kept = [int(without_small(mask, None, 4.0, spacing).sum()) for spacing in ((1.0,) * 3, (0.9,) * 3, (4.0, 1.0, 1.0))]
    assert kept == [4, 0, 5]
    disc = np.zeros((8, 8), bool)
    disc[0, 0] = disc[3:5, 3:5] = True  # areas 1 and 4 mm2; a sphere of 4 mm3 has a disc of 3.05 mm2
    assert without_small(disc, None, 4.0, (1.0, 1.0)).sum() == 4
    assert without_small(disc, None, 7.0, (1.0, 1.0)).sum() == 0


def test_smoothing_is_in_plane_and_keeps_neighbours_together():
    fine = np.ones((6, 40, 40), np.int16)
    fine[2:4, 10:30, 10:20], fine[2:4, 10:30, 20:30] = 2, 6
    out = drawn({"axial_smoothing_mm": 3.0}, labels=(fine, None))
    assert not out[:2].any() and not out[4:].any() and (out[2] == out[3]).all()
    assert out[2, 10, 10] == 0 and (out[2, 20, 12:28] > 0).all()
    assert (out[2, 20, 19], out[2, 20, 20]) == (LIVER, KIDNEY)


AFFINE = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])  # superior, anterior, right
ORDERED = [
    name for name, rule in PROTOCOLS.items() if rule.levels and not rule.option_of and "lesion_map" not in rule.requires
]


def crowded():
    """The abdomen with lesions of 2 to 80 mm3, some of them close together, a ragged kidney and a hole in it."""
    fine, instances = abdomen()
    for i, size in enumerate((1, 2, 6, 20, 40), start=3):
        z, y = 5 + i, 26 + i % 3
        free = np.argwhere((fine[z, y] == 2) & (instances[z, y] == 0))[:, 0][:size]
        fine[z, y, free], instances[z, y, free] = 5, i
    fine[(fine == 6) & (np.random.default_rng(0).random(fine.shape) < 0.2)] = 1
    return fine, instances


@pytest.mark.parametrize("name", ORDERED)
def test_every_level_changes_the_reference_and_severities_are_ordered(name):
    rule = PROTOCOLS[name]
    assert rule.version >= 1 and rule.unit and rule.reference and len(rule.levels) == 5
    assert all(rule.range[0] <= level <= rule.range[1] for level in rule.levels)
    plain = drawn({}, labels=crowded(), things=("tumour",))
    outs = [
        drawn({name: level}, labels=crowded(), things=("tumour",), affine=AFFINE)
        for level in (rule.default, *rule.levels)
    ]
    changed = [int((out != plain).sum()) for out in outs]
    assert changed[0] == 0 and max(changed) > 0
    if rule.monotone:
        slack = 0.01 * (plain > 0).sum()  # closings with two balls are nested but for single voxels
        assert all(after >= before - slack for before, after in zip(changed[:-1], changed[1:], strict=True))
        assert changed[-1] > changed[1]


@pytest.mark.parametrize("name", [n for n, rule in PROTOCOLS.items() if rule.choices and not rule.substructure])
def test_every_choice_gives_a_reference_of_its_own(name):
    rule = PROTOCOLS[name]
    base = {"margin_plane": {"margin_mm": 5.0}, "slice_interpolation": {"slice_every": 4.0}}.get(name, {})
    fine, instances = crowded()
    fine[8, 20:23, 40:43] = 1  # closed in its slice only
    outs = [drawn({**base, name: c}, labels=(fine, instances), things=("tumour",), affine=AFFINE) for c in rule.choices]
    different = {out.tobytes() for out in outs}
    tied = {"order": 2, "laterality": 3, "lesion_in_organ": 2}  # no cyst, tumours painted over their organ; one kidney
    assert len(different) == tied.get(name, len(rule.choices)) and rule.choices[0] == rule.default


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    hilum=st.sampled_from(("included", "excluded")),
    vessels=st.sampled_from(("included", "excluded")),
    margin=st.sampled_from((-3.0, 0.0, 2.0)),
    smallest=st.sampled_from((0.0, 27.0, 125.0)),
    smoothing=st.sampled_from((0.0, 2.0)),
    ndim=st.sampled_from((2, 3)),
)
def test_a_reference_is_deterministic_and_its_input_left_alone(hilum, vessels, margin, smallest, smoothing, ndim):
    fine, instances = abdomen()
    if ndim == 2:
        fine, instances = fine[8].copy(), instances[8].copy()
    before = fine.tobytes(), instances.tobytes()
    protocol = {
        "axial_smoothing_mm": smoothing,
        "margin_mm": margin,
        "min_lesion_mm3": smallest,
        "vessels": vessels,
        "hilum": hilum,
    }
    outs = [
        drawn(p, labels=(fine, instances), spacing=SPACING[-ndim:])
        for p in (protocol, dict(reversed(protocol.items())))
    ]
    assert outs[0].tobytes() == outs[1].tobytes()  # the order of rules is fixed, not that of the table given
    assert outs[0].dtype == np.uint8 and outs[0].shape == fine.shape and outs[0].max() <= 3
    assert (fine.tobytes(), instances.tobytes()) == before


IDEMPOTENT = [
    name
    for name, rule in PROTOCOLS.items()
    if rule.idempotent
    and (rule.levels or rule.scope != "dataset" or name == "order")
    and not (rule.option_of or rule.substructure or rule.about or "lesion_map" in rule.requires)
]


@pytest.mark.parametrize("name", IDEMPOTENT)
def test_a_rule_that_says_so_is_idempotent(name):
    rule = PROTOCOLS[name]
    for value in rule.choices or rule.levels:
        once = drawn({name: value}, labels=crowded(), things=("tumour",), affine=AFFINE)
        back = np.array([1, 2, 5, 6], np.int16)[once]
        kept = np.where(once == TUMOUR, crowded()[1], 0)
        again = drawn({name: value}, labels=(back, kept), things=("tumour",), affine=AFFINE)
        assert again.tobytes() == once.tobytes()


def test_rules_on_membership_are_idempotent():
    for protocol in ({"hilum": "included"}, {"vessels": "excluded"}, {"min_vessel_mm": 2.0}):
        once = drawn(protocol)
        again = drawn(protocol, labels=(np.array([1, 2, 5, 6], np.int16)[once], None))
        assert again.tobytes() == once.tobytes()


def test_unknown_rules_values_and_sub_structures_are_refused():
    with pytest.raises(SpecError, match=r"a\.toml: unknown protocol rule 'hilus'; did you mean 'hilum'"):
        check_protocol({"hilus": "included"}, OPTIONAL, "a.toml")
    with pytest.raises(SpecError, match="did you mean 'included'"):
        drawn({"hilum": "include"})
    for bad in (True, "3", 50.0, float("nan")):
        with pytest.raises(SpecError, match="use -20 to 20 mm"):
            drawn({"margin_mm": bad})
    with pytest.raises(SpecError, match="'hilum' needs a sub-structure"):
        drawn({"hilum": "excluded"}, optional={"vessel": ("liver", "vessels")})
    assert drawn({}, optional={}).any()
    with pytest.raises(SpecError, match="did you mean 'liver'"):
        drawn({}, structures=("livre",))
