"""Label protocols one by one: regions and contours against closed forms."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from skimage.measure import approximate_polygon, find_contours

from shiftbench.data.describe import Description
from shiftbench.data.folders import FolderDataset
from shiftbench.errors import SpecError
from shiftbench.shifts import contours, regions
from shiftbench.shifts.effects import protocol_effects
from shiftbench.shifts.protocol import check_protocol, reference
from shiftbench.shifts.rules import PROTOCOLS, RATER_STYLES

HIPPOCAMPUS = Path(__file__).parents[2] / "shared" / "data" / "msd_hippocampus"
AFFINE = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])  # superior, anterior, right
BACK_TO_FRONT = np.diag([1.0, -1.0, 1.0, 1.0]) @ AFFINE


def grid(shape, spacing):
    return np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)), indexing="ij", sparse=True
    )


def ball(radius, spacing=(1.0, 1.0, 1.0), room=8.0, centre=0.0):
    shape = [int(np.ceil(2 * (radius + room) / mm)) for mm in spacing]
    return sum((g - centre) ** 2 for g in grid(shape, spacing)) < radius**2


def box(shape, *sides):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def draw(masks, protocol, *, spacing=(1.0, 1.0, 1.0), things=(), hollow=(), **more):
    """A reference of masks that do not overlap, each a structure by its name; `hollow` ones are inside the first."""
    fine = np.zeros(next(iter(masks.values())).shape, np.int16)
    for i, mask in enumerate(masks.values(), start=1):
        fine[mask] = i
    names = list(masks)
    members = {name: (name, *hollow) if name == names[0] else (name,) for name in names}
    return reference(
        fine,
        None,
        fine_labels=("outside", *names),
        members=members,
        optional_members=more.pop("optional_members", {}),
        structures=more.pop("structures", names),
        protocol=protocol,
        spacing=spacing,
        things=things,
        **more,
    )


def half_bored(depth=30, width=6):
    """A block of 40 mm with a slot of some width cut into one side: an organ with its hilum."""
    mask = box((40, 60, 60), (5, 35), (10, 50), (10, 50))
    mask[5:35, 30 - width // 2 : 30 + width // 2, 10 : 10 + depth] = False
    return mask


def test_closing_fills_a_slot_that_the_ball_cannot_enter_and_no_other():
    organ = half_bored(width=6)
    for radius, filled in ((2.0, 0.0), (4.0, 1.0)):
        slot = box(organ.shape, (10, 30), (27, 33), (16, 34)) & ~organ
        assert regions.closed(organ, radius, (1.0,) * 3)[slot].mean() == filled, radius
    whole = box((12, 20, 20), (0, 12), (0, 20), (4, 16))
    assert (regions.closed(whole, 6.0, (1.0,) * 3) == whole).all()  # an organ cut by the image's edge


def test_closing_is_in_mm():
    coarse = half_bored(width=6)[::2]
    changes = [
        regions.closed(mask, 6.0, mm).sum() * np.prod(mm) / (mask.sum() * np.prod(mm))
        for mask, mm in ((half_bored(), (1.0, 1.0, 1.0)), (coarse, (2.0, 1.0, 1.0)))
    ]
    assert changes[0] > 1.05 and changes[0] == pytest.approx(changes[1], rel=0.02)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_vessel_is_kept_from_its_width_on_even_or_odd(ndim):
    for width in range(1, 8):
        tube = box((20, 20, 40)[3 - ndim :], *(((6, 6 + width), (6, 6 + width), (2, 38))[3 - ndim :]))
        kept = [bool(regions.thick_enough(tube, d, (1.0,) * ndim).any()) for d in range(1, 9)]
        assert kept == [d <= width for d in range(1, 9)]
    mm = [bool(regions.thick_enough(tube, d, (0.5,) * ndim).any()) for d in (3.4, 3.5, 3.6)]  # 7 pixels of 0.5 mm
    assert mm == [True, True, False]


def test_thin_branches_go_and_the_trunk_keeps_its_ragged_edge():
    tree = box((40, 60), (10, 18), (0, 60)) | box((40, 60), (18, 40), (20, 22))
    tree[9, 5::7] = True
    kept = regions.thick_enough(tree, 5.0, (1.0, 1.0))
    assert (kept[:18] == tree[:18]).all() and not kept[21:].any()
    assert (regions.thick_enough(kept, 5.0, (1.0, 1.0)) == kept).all()


def test_a_centreline_band_has_the_width_asked_for_whatever_the_lumen():
    for lumen in (3, 7, 11):
        tube = box((40, 80), (20 - lumen // 2, 21 + lumen // 2), (5, 75))
        widths = [int(regions.centreline(tube, w, (1.0, 1.0))[:, 40].sum()) for w in (1.0, 3.0, 5.0)]
        assert widths == [1, 3, 5]


def test_a_hole_open_in_the_volume_is_closed_in_its_slices_only():
    shell = box((9, 12, 12), (1, 8), (2, 10), (2, 10))
    shell[3:6, 5:7, 5:7] = False  # a closed hole
    tunnel = shell.copy()
    tunnel[:, 5:7, 5:7] = False
    assert regions.holes_filled(shell, "3d")[4, 5, 5] and regions.holes_filled(shell, "2d")[4, 5, 5]
    assert not regions.holes_filled(tunnel, "3d")[4, 5, 5] and regions.holes_filled(tunnel, "2d")[4, 5, 5]
    notch = box((12, 12), (0, 8), (2, 10)) & ~box((12, 12), (0, 5), (4, 6))
    assert (regions.holes_filled(notch, "2d") == notch).all()  # open at the edge of the image


def test_sides_are_the_patients():
    pair = {"kidney": box((8, 12, 40), (2, 6), (4, 8), (2, 10)) | box((8, 12, 40), (2, 6), (4, 8), (28, 38))}
    right = draw(pair, {"laterality": "right"}, affine=AFFINE)
    assert right[:, :, 20:].sum() == 160 and not right[:, :, :20].any()
    mirrored = draw(pair, {"laterality": "right"}, affine=np.diag([-1.0, 1, 1, 1]) @ AFFINE)
    assert mirrored[:, :, :20].any() and not mirrored[:, :, 20:].any()
    assert (draw(pair, {"laterality": "largest"}) == right).all()
    with pytest.raises(SpecError, match="which way is left is not known"):
        draw(pair, {"laterality": "left"})


def test_ends_are_cut_and_repeated_per_piece_and_in_mm():
    organs = {"a": box((20, 10, 20), (4, 12), (2, 6), (2, 6)) | box((20, 10, 20), (6, 15), (2, 6), (12, 16))}
    tops = {}
    for value in (-2.0, 0.0, 3.0):
        out = draw(organs, {"superior_slices": value}) == 1
        tops[value] = [int(np.flatnonzero(out[:, 4, x]).max()) for x in (4, 14)]
        assert out[4, 4, 4] and out[6, 4, 14] and not out[3].any()
    assert tops == {-2.0: [9, 12], 0.0: [11, 14], 3.0: [14, 17]}
    by_mm = draw(organs, {"inferior_mm": -5.0}, spacing=(2.5, 1.0, 1.0)) == 1
    assert [int(np.flatnonzero(by_mm[:, 4, x]).min()) for x in (4, 14)] == [6, 8]
    upside_down = draw(organs, {"superior_slices": -2.0}, affine=np.diag([1.0, 1, -1, 1]) @ AFFINE) == 1
    assert int(np.flatnonzero(upside_down[:, 4, 4]).min()) == 6
    assert not draw(organs, {"superior_slices": -9.0}).any()  # nothing is left: an empty reference


def hippocampus():
    return {
        "anterior": box((10, 30, 8), (2, 8), (16, 28), (2, 6)),
        "posterior": box((10, 30, 8), (2, 8), (3, 16), (2, 6)),
    }


def test_a_landmark_moves_by_mm_and_their_union_stays():
    plain = draw(hippocampus(), {})
    for shift, border in ((3.0, 13), (-3.0, 19), (1.0, 15)):
        out = draw(hippocampus(), {"landmark_mm": shift})
        assert ((out > 0) == (plain > 0)).all()
        assert int(np.flatnonzero((out == 1).any(axis=(0, 2))).min()) == border
    named = draw(hippocampus(), {"landmark_mm": {"posterior": 2.0}})
    assert int(np.flatnonzero((named == 2).any(axis=(0, 2))).max()) == 17
    with pytest.raises(SpecError, match="needs two structures"):
        draw(hippocampus(), {"landmark_mm": 2.0}, structures=["anterior"])


def test_the_tail_is_the_posterior_end_of_the_whole_organ():
    out = draw(hippocampus(), {"tail_cut_mm": 4.0}, affine=AFFINE)
    assert not out[:, :7].any() and (out == draw(hippocampus(), {}))[:, 7:].all()
    other = draw(hippocampus(), {"tail_cut_mm": 4.0}, affine=BACK_TO_FRONT)
    assert not other[:, 24:].any() and (other == draw(hippocampus(), {}))[:, :24].all()


def test_a_layer_lies_on_the_upper_face_alone():
    out = draw(hippocampus(), {"alveus_mm": 2.0})
    plain = draw(hippocampus(), {})
    assert (out[8:10] == plain[7]).all() and (out[:8] == plain[:8]).all()


def test_nothing_is_drawn_in_a_band_along_the_edge():
    kept = regions.without_edge(np.ones((10, 20, 20), bool), 4.0, (2.0, 1.0, 1.0))
    assert kept.sum() == 6 * 12 * 12 and kept[2, 4, 4] and not kept[1, 4, 4]


@pytest.mark.parametrize("percent", [-15.0, 5.0, 15.0, 30.0, 60.0])
def test_inflation_changes_the_volume_by_its_percentage_and_half_of_it_along_the_body(percent):
    mask = ball(20.0, (1.0, 1.0, 1.0), room=12)
    out = contours.inflated(mask, percent, (1.0,) * 3, 0)
    assert out.sum() / mask.sum() == pytest.approx(1 + percent / 100, abs=1e-3)
    heights = [int(m.any(axis=axes).sum()) for m in (mask, out) for axes in ((1, 2), (0, 1))]
    if abs(percent) >= 15:
        assert abs(heights[2] - heights[0]) >= abs(heights[3] - heights[1])
        lengths = 40 * (1 + percent / 100) ** np.array([0.5, 0.25])
        assert heights[2:] == pytest.approx(lengths.tolist(), abs=1.5)
    twin = np.concatenate([mask, mask], axis=2)
    both = contours.inflated(twin, percent, (1.0,) * 3, 0)
    assert (both == np.concatenate([out, out], axis=2)).all()  # each about its own centre
    disc = mask[32]
    flat = contours.inflated(disc, percent, (1.0, 1.0), None)
    assert flat.sum() / disc.sum() == pytest.approx(1 + percent / 100, abs=1e-3)
    assert (flat ^ flat.T).sum() <= 0.004 * flat.sum() and (flat >= disc if percent > 0 else flat <= disc).all()


def test_a_planning_margin_is_half_as_wide_behind():
    gtv = {"lesion": box((41, 41, 41), (20, 21), (20, 21), (20, 21))}
    for affine, behind in ((AFFINE, 0), (BACK_TO_FRONT, 1)):
        out = draw(gtv, {"ptv_mm": 10.0}, affine=affine, things=("lesion",)) == 1
        reach = [np.flatnonzero(out.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        extents = [(20 - int(r.min()), int(r.max()) - 20) for r in reach]
        assert extents[0] == extents[2] == (10, 10) and extents[1] == ((5, 10), (10, 5))[behind]
    isotropic = contours.planning_target(ball(8.0, room=14), 10.0, (1.0,) * 3, (1, 1))
    grown = contours.moved(ball(8.0, room=14), 10.0, (1.0,) * 3)
    assert (isotropic[:, :22] == grown[:, :22]).all() and not (isotropic & ~grown).any()


def test_a_clinical_target_neither_enters_a_barrier_nor_leaps_over_it():
    gtv = box((30, 40, 40), (10, 20), (10, 20), (10, 20))
    bone = box((30, 40, 40), (0, 30), (0, 40), (24, 26))
    target = draw(
        {"lesion": gtv, "bone": bone}, {"ctv_mm": 10.0}, barriers=("bone",), structures=["lesion"], things=("lesion",)
    )
    assert target[15, 15, 23] and not target[:, :, 24:].any()
    free = draw({"lesion": gtv, "bone": bone}, {"ctv_mm": 10.0}, structures=["lesion"], stuff=("bone",))
    assert free[15, 15, 28]


def test_slices_left_out_are_interpolated_and_those_kept_are_kept():
    mask = ball(15.0, (1.0, 1.0, 1.0))
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    for every in (2, 3, 4, 5, 8):
        out = contours.interpolated(mask, every, (1.0,) * 3)
        kept = np.unique([*range(slices[0], slices[-1], every), slices[-1]])
        assert (out[kept] == mask[kept]).all()
        assert (contours.interpolated(out, every, (1.0,) * 3) == out).all()
    cone = sum(g**2 for g in grid((41, 61, 61), (1.0,) * 3)[1:]) < np.linspace(10, 26, 41)[:, None, None] ** 2
    shape, nearest = (contours.interpolated(cone, 8, (1.0,) * 3, how) for how in ("shape", "nearest"))
    assert (shape ^ cone).sum() < 0.03 * cone.sum() < 0.07 * cone.sum() < (nearest ^ cone).sum()  # its radius is linear
    assert all((nearest[z] == cone[8 * round(z / 8 - 0.01)]).all() for z in range(41))


@pytest.mark.parametrize("side", [(4, 16), (0, 20)])
def test_nothing_is_drawn_beside_a_slice_without_contour(side):
    mask = box((13, 20, 20), (0, 3), side, side) | box((13, 20, 20), (8, 13), side, side)
    out = contours.interpolated(mask, 4, (1.0,) * 3)
    assert out[0].any() and not out[1:8].any() and (out[8:] == mask[8:]).all()


def test_polygons_are_those_of_douglas_and_peucker():
    rng = np.random.default_rng(3)
    angle = np.linspace(0, 2 * np.pi, 200)[:-1]
    wave = sum(rng.normal() / k * np.cos(k * angle + rng.uniform(0, 6)) for k in range(2, 7))
    y, x = grid((90, 90), (1.0, 1.0))
    mask = np.hypot(y, x) < 28 + 5 * np.interp(np.arctan2(y, x) % (2 * np.pi), angle, wave)
    (contour,) = find_contours(mask.astype(float), 0.5)
    for tolerance in (0.73, 1.37, 2.9):
        (mine,) = contours._corners(contour, [len(contour)], tolerance)
        theirs = approximate_polygon(contour, tolerance)
        assert len(theirs) == pytest.approx(mine.sum(), abs=1) and {*map(tuple, theirs)} >= {
            *map(tuple, contour[mine][:1])
        }
    assert (contours.decimated(mask, 0.0, (1.0, 1.0)) == mask).all()


def test_a_decimated_disc_loses_what_its_polygon_cuts_off_and_a_hole_stays():
    disc = ball(40.0, (0.5, 0.5), room=5)
    ring = disc & ~ball(20.0, (0.5, 0.5), room=25)
    for tolerance in (1.0, 2.0, 4.0):
        out = contours.decimated(disc, tolerance, (0.5, 0.5))
        corners = next(n for n in (4, 8, 16, 32) if 40 * (1 - np.cos(np.pi / n)) <= tolerance)  # halved again and again
        lost = 1 - np.sin(2 * np.pi / corners) * corners / (2 * np.pi)
        assert 1 - out.sum() / disc.sum() == pytest.approx(lost, abs=0.011)
        hole = contours.decimated(ring, tolerance, (0.5, 0.5))
        assert not hole[90, 90] and hole[90, 30] and hole.sum() == pytest.approx(ring.sum(), rel=0.12)
    stack = np.stack([disc, ring, np.zeros_like(disc)])
    alone = [contours.decimated(m, 2.0, (0.5, 0.5)) for m in stack]
    assert (contours.decimated(stack, 2.0, (4.0, 0.5, 0.5)) == np.stack(alone)).all()
    speck = box((9, 9), (4, 5), (4, 5))
    assert (contours.decimated(speck, 4.0, (1.0, 1.0)) == speck).all()  # a contour does not vanish


def test_a_margin_within_slices_adds_no_slice():
    organ = {"a": box((9, 30, 30), (3, 6), (10, 20), (10, 20))}
    out = draw(organ, {"margin_mm": 3.0, "margin_plane": "axial"}, spacing=(2.0, 1.0, 1.0)) == 1
    assert out[3:6, 7, 15].all() and not out[:3].any() and not out[6:].any()
    assert (draw(organ, {"margin_mm": 3.0}, spacing=(2.0, 1.0, 1.0)) == 1)[2, 15, 15]


@pytest.mark.parametrize(
    "protocol",
    [
        {"margin_mm": 3.0},
        {"wall_mm": 2.0},
        {"inflation_percent": 15.0},
        {"polygon_mm": 2.0},
        {"hilum_closing_mm": 10.0},
    ],
)
def test_effects_do_not_depend_on_the_grid(protocol):
    changes = []
    for mm in ((1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (0.5, 0.5, 0.5)):
        shape = [int(64 / s) for s in mm]
        z, y, x = grid(shape, mm)
        mask = (z**2 + y**2 + x**2 < 20**2) & ~((np.abs(y) < 4) & (x > 4) & (z > -99))
        plain, out = (draw({"a": mask}, p, spacing=mm) for p in ({}, protocol))
        changes.append(protocol_effects(plain, out, ("a",), mm)["a"]["volume_change_percent"])
    within = 0.3 if "polygon_mm" in protocol else 0.16  # corners of a polygon lie on voxels
    assert changes == pytest.approx([changes[2]] * 3, abs=max(within * abs(changes[2]), 1.0)) and any(changes)


def lesions_in_liver():
    liver = box((20, 40, 40), (2, 18), (4, 36), (4, 36))
    masks = {"liver": liver, "tumour": box(liver.shape, (6, 10), (8, 12), (8, 12))}
    masks["cyst"] = box(liver.shape, (6, 14), (20, 28), (20, 28))
    return masks


@pytest.mark.parametrize(
    ("which", "inside", "outside"),
    [("both", ("tumour", "cyst"), ()), ("tumour", ("tumour",), ("cyst",)), ("cyst", ("cyst",), ("tumour",))],
)
def test_lesions_belong_to_the_organ_or_not(which, inside, outside):
    masks = lesions_in_liver()
    more = {"things": ("tumour", "cyst"), "hollow": ("tumour", "cyst"), "structures": ["liver"]}
    out = draw(masks, {"lesion_in_organ": which}, **more) == 1
    assert all(out[masks[name]].all() for name in inside) and not any(out[masks[name]].any() for name in outside)
    assert not draw(masks, {"lesion_in_organ": "none"}, **more)[masks["tumour"] | masks["cyst"]].any()
    rim = draw(masks, {"lesion_in_organ": "rim_excluded", "lesion_rim_mm": 2.0}, **more) == 1
    assert rim[10, 24, 24] and not rim[10, 20:22, 24].any() and rim[10, 19, 24]
    with pytest.raises(SpecError, match="needs lesions inside an organ"):
        draw(masks, {"lesion_in_organ": "none"}, things=("tumour",))


def test_a_lesion_that_is_part_of_no_structure_grows_into_the_organs_and_they_do_not_grow_into_it():
    masks = {
        "white": box((9, 30, 30), (0, 9), (2, 28), (2, 28)),
        "lesion": box((9, 30, 30), (3, 6), (12, 16), (12, 16)),
    }
    plain, grown, kept = (
        draw(masks, {"margin_mm": {name: 2.0}} if name else {}, things=things)
        for name, things in (("", ("lesion",)), ("lesion", ("lesion",)), ("lesion", ()))
    )
    assert (grown == 2).sum() > 2 * (plain == 2).sum() and (kept == plain).all()
    assert (draw(masks, {"margin_mm": {"white": 2.0}}, things=("lesion",)) == 2).sum() == (plain == 2).sum()
    with pytest.raises(SpecError, match="give one value"):
        draw(masks, {"margin_mm": {"white": {"lesion": 2.0}}})


def test_an_organ_grows_into_stuff_and_into_no_other_organ():
    masks = {"organ": box((9, 30, 30), (2, 7), (8, 22), (8, 22))}
    masks["fat"] = ~masks["organ"]
    held, grown = (draw(masks, {"margin_mm": {"organ": 2.0}}, structures=["organ"], stuff=s) for s in ((), ("fat",)))
    assert (held == 1).sum() == masks["organ"].sum() < 0.7 * (grown == 1).sum()


def test_rims_that_a_dataset_has_labels_of_are_what_is_left_out():
    masks = {**lesions_in_liver(), "tumour_rim": box((20, 40, 40), (6, 7), (8, 12), (8, 12))}
    more = {"things": ("tumour_rim", "cyst"), "hollow": ("tumour", "cyst", "tumour_rim"), "structures": ["liver"]}
    out = draw(masks, {"lesion_in_organ": "rim_excluded"}, **more) == 1
    assert not out[masks["tumour_rim"]].any() and out[masks["cyst"]].all()


def test_lesions_within_a_distance_are_drawn_as_one_and_then_counted_as_one():
    pair = box((12, 20, 30), (4, 8), (6, 12), (4, 10)) | box((12, 20, 30), (4, 8), (6, 12), (13, 19))  # 3 mm apart
    masks = {"lesion": pair}
    joined = [
        int(regions.pieces(draw(masks, {"merge_distance_mm": d}, things=("lesion",)) == 1).max())
        for d in (1.0, 2.0, 3.0)
    ]
    assert joined == [2, 2, 1]
    each = 4 * 6 * 6
    both = draw(masks, {"merge_distance_mm": 3.0, "min_lesion_mm3": each + 1.0}, things=("lesion",))
    assert both.sum() > 2 * each and not draw(masks, {"min_lesion_mm3": each + 1.0}, things=("lesion",)).any()


def test_a_penumbra_is_in_or_out_by_a_threshold_of_the_map():
    y, x = grid((40, 40), (1.0, 1.0))
    z_map = 4.0 - np.hypot(y, x) / 4
    far = z_map.copy()
    far[:4, :4] = 5.0  # a region without a lesion in it
    mask = np.hypot(y, x) < 6
    sizes = [int(regions.above_threshold(mask, far, z).sum()) for z in (1.0, 1.5, 2.0, 2.5, 3.0)]
    assert sizes == pytest.approx([np.pi * (4 * (4 - z)) ** 2 for z in (1.0, 1.5, 2.0, 2.5, 3.0)], rel=0.05)
    with pytest.raises(SpecError, match="needs a map of the lesions"):
        draw({"lesion": mask}, {"penumbra_z": 2.0}, spacing=None, things=("lesion",))


def test_thin_vessels_belong_to_their_organ_and_thick_ones_do_not():
    masks = {"liver": box((12, 30, 40), (1, 11), (2, 28), (2, 38))}
    masks["portal"] = box((12, 30, 40), (3, 9), (6, 12), (2, 38)) | box((12, 30, 40), (5, 7), (12, 28), (20, 22))
    optional = {"portal": ("liver", "vessels")}
    out = {
        d: draw(masks, {"min_vessel_mm": d}, structures=["liver"], optional_members=optional) for d in (1.0, 4.0, 8.0)
    }
    assert not out[1.0][masks["portal"]].any() and out[8.0][masks["portal"]].all()
    assert out[4.0][6, 24, 20] == 1 and out[4.0][6, 9, 10] == 0
    with pytest.raises(SpecError, match="'min_vessel_mm' needs a sub-structure"):
        draw(masks, {"min_vessel_mm": 3.0})


def heart(protocol):
    masks = {"lv": box((4, 20, 20), (0, 4), (6, 14), (6, 14)), "myocardium": box((4, 20, 20), (0, 4), (3, 6), (3, 17))}
    masks["papillary"] = box((4, 20, 20), (0, 4), (6, 8), (8, 12))
    masks["lv"] &= ~masks["papillary"]
    alternative = {"papillary": ("papillary", {"blood_pool": "lv", "mass": "myocardium"})}
    out = draw(masks, protocol, structures=["lv", "myocardium"], alternative_members=alternative)
    return {name: set(np.unique(out[mask])) for name, mask in masks.items()}


def test_papillary_muscles_are_blood_pool_or_mass():
    assert heart({}) == {"lv": {1}, "myocardium": {2}, "papillary": {1}} == heart({"papillary": "blood_pool"})
    assert heart({"papillary": "mass"}) == {"lv": {1}, "myocardium": {2}, "papillary": {2}}


def test_fine_labels_are_given_to_other_structures():
    masks = hippocampus()
    merged = draw(masks, {"reassign": {"posterior": "anterior"}})
    assert set(np.unique(merged)) == {0, 1} and (merged > 0).sum() == sum(m.sum() for m in masks.values())
    assert (draw(masks, {"reassign": {"posterior": "background"}}) > 0).sum() == masks["anterior"].sum()
    with pytest.raises(SpecError, match="unknown fine label 'post'; did you mean 'posterior'"):
        draw(masks, {"reassign": {"post": "anterior"}})
    with pytest.raises(SpecError, match="unknown structure 'front'"):
        draw(masks, {"reassign": {"posterior": "front"}})


def test_the_order_of_overlapping_structures_is_a_rule():
    masks = lesions_in_liver()
    more = {"things": ("tumour", "cyst"), "hollow": ("tumour", "cyst")}
    counts = {
        str(order): np.bincount(draw(masks, {"order": order}, **more).ravel(), minlength=4)[1:].tolist()
        for order in ("listed", "reversed", "large_on_top", "small_on_top", ["cyst", "liver", "tumour"], ["liver"])
    }
    whole, tumour, cyst = int(box((20, 40, 40), (2, 18), (4, 36), (4, 36)).sum()), 64, 512
    nested = [whole - tumour - cyst, tumour, cyst]
    assert counts["listed"] == counts["small_on_top"] == nested
    assert counts["reversed"] == counts["large_on_top"] == counts["['liver']"] == [whole, 0, 0]
    assert counts["['cyst', 'liver', 'tumour']"] == [whole - tumour, tumour, 0]


def test_a_rater_style_sets_other_rules_unless_the_protocol_does():
    masks = lesions_in_liver()
    more = {"things": ("tumour", "cyst"), "hollow": ("tumour", "cyst")}
    for style, rules in RATER_STYLES.items():
        assert (draw(masks, {"rater_style": style}, **more) == draw(masks, rules, **more)).all()
    own = draw(masks, {"rater_style": "generous", "margin_mm": 0.0}, **more)
    assert (own == draw(masks, {"merge_distance_mm": 3.0}, **more)).all()
    assert draw({"a": ball(8.0)}, {"rater_style": "cautious"}).any()  # what it says of lesions falls away without any


def test_values_per_structure_name_their_structures():
    out = draw(hippocampus(), {"margin_mm": {"anterior": -1.0}})
    plain = draw(hippocampus(), {})
    assert (out == 1).sum() < (plain == 1).sum() and ((out == 2) == (plain == 2)).all()
    with pytest.raises(SpecError, match="margin_mm: unknown structure 'front'; .*known: anterior, posterior"):
        draw(hippocampus(), {"margin_mm": {"front": -1.0}})
    with pytest.raises(SpecError, match="use -20 to 20 mm"):
        draw(hippocampus(), {"margin_mm": {"anterior": 99.0}})


@pytest.mark.parametrize(
    "name", [n for n, rule in PROTOCOLS.items() if rule.requires and "lesion_map" not in rule.requires]
)
def test_a_rule_of_volumes_is_refused_on_pictures(name):
    value = PROTOCOLS[name].levels[0]
    with pytest.raises(SpecError, match=f"'{name}' is defined for volumes, not pictures"):
        check_protocol({name: value}, {}, "a.toml: site-b", ndim=2)
    assert check_protocol({name: value}, {}, ndim=3)[name] == value


@pytest.mark.parametrize("name", [n for n, rule in PROTOCOLS.items() if rule.scope == "lesions"])
def test_a_rule_of_lesions_is_refused_where_there_are_none_unless_a_structure_is_named(name):
    value = PROTOCOLS[name].levels[0]
    with pytest.raises(SpecError, match=f"'{name}' needs a structure that is made of lesions"):
        check_protocol({name: value}, {}, structures=["nucleus"], things=())
    check_protocol({name: {"nucleus": value}}, {}, structures=["nucleus"], things=())


def test_values_of_the_wrong_kind_are_refused():
    wrong = {"slice_every": 2.5, "order": ["lobe"], "reassign": "posterior", "fill_holes": True, "laterality": "middle"}
    for name, value in wrong.items():
        with pytest.raises(SpecError, match=name):
            check_protocol({name: value}, {}, structures=["anterior"])


@pytest.mark.parametrize("name", [n for n, rule in PROTOCOLS.items() if not rule.substructure and not rule.about])
def test_an_empty_mask_stays_empty(name):
    rule = PROTOCOLS[name]
    nothing = {structure: np.zeros((6, 8, 8), bool) for structure in "abc"}
    for value in rule.levels or rule.choices:
        out = draw(nothing, {name: value}, things=("b",), hollow=("b",), affine=AFFINE, lesion_map=np.zeros((6, 8, 8)))
        assert not out.any()


def test_effects_are_told_for_structures_that_come_and_go():
    one, other = np.zeros((2, 12, 12), np.uint8)
    one[2:6, 2:6], other[2:6, 4:8], other[9, 9] = 1, 1, 2
    effects = protocol_effects(one, other, ("a", "b", "c"), (1.0, 2.0))
    assert effects["a"] == pytest.approx(
        {"volume_change_percent": 0.0, "agreement": 0.5, "shift_mean_mm": 1.5, "shift_p95_mm": 4.0}, abs=0.6
    )
    assert effects["b"] == {
        "volume_change_percent": None, "agreement": 0.0, "shift_mean_mm": None, "shift_p95_mm": None
    }  # fmt: skip
    assert set(effects["c"].values()) == {None}
    assert protocol_effects(other, one, ("a", "b"), None)["b"]["volume_change_percent"] == -100.0
    with pytest.raises(ValueError, match="shapes"):
        protocol_effects(one, other[:5], ("a",), None)


@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="real scans are not here")
def test_rules_hold_on_real_masks():
    text = (Path(__file__).parents[1] / "scenarios" / "datasets" / "hippocampus.toml").read_text()
    dataset = FolderDataset(Description(**tomllib.loads(text)), HIPPOCAMPUS)
    anatomy = dataset.anatomy(dataset.cases()[0].case_id)
    structures = ("anterior", "posterior")

    def under(protocol):
        return reference(
            anatomy.fine,
            None,
            fine_labels=dataset.fine_labels,
            members=dataset.members,
            optional_members={},
            structures=structures,
            protocol=protocol,
            spacing=anatomy.geometry.spacing,
            things=dataset.things,
            affine=anatomy.geometry.affine,
        )

    plain = under({})
    moved = [protocol_effects(plain, under({"landmark_mm": v}), structures, (1.0,) * 3) for v in (-3.0, -1.0, 1.0, 3.0)]
    volumes = [effect["anterior"]["volume_change_percent"] for effect in moved]
    assert volumes == sorted(volumes) and volumes[0] < -10 and volumes[-1] > 10
    assert [effect["anterior"]["shift_p95_mm"] for effect in moved] == [3.0, 1.0, 1.0, 3.0]
    cut = under({"tail_cut_mm": 6.0})
    rows = [np.flatnonzero((mask > 0).any(axis=(0, 2))) for mask in (plain, cut)]
    assert rows[1].min() == rows[0].min() + 6 and rows[1].max() == rows[0].max()  # the second axis runs to anterior
