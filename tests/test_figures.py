"""Figures and contact sheets: files, bytes, contours, and what a picture says."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from synthetic_rows import make_rows, not_applicable

from shiftbench.errors import OutputError
from shiftbench.report import images, style
from shiftbench.report.figures import (
    best_of_each_track,
    leaderboard_picture,
    save,
    severity_curves,
    transfer_matrix,
    write_figures,
)
from shiftbench.report.leaderboard import leaderboard
from shiftbench.report.sheet import Cell, Example, contact_sheet, example_page, slice_dsc

METHODS = ("erm", "histmatch", "tent_bn", "fewshot_ft_5", "target_oracle")


@pytest.fixture(scope="module")
def rows():
    return not_applicable(make_rows(methods=METHODS), "histmatch", "nothing to match")


@pytest.fixture(scope="module")
def table(rows):
    return leaderboard(rows)


def texts(figure):
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]


def masks(shape=(24, 32)):
    reference = np.zeros(shape, int)
    reference[4:16, 5:20] = 1
    reference[8:11, 8:12] = 2
    return reference


def sheet():
    rng = np.random.default_rng(0)
    reference, other = masks(), masks()
    other[3:17, 4:21][other[3:17, 4:21] == 0] = 1
    cells = [
        [
            Cell(
                rng.normal(100 - 10 * i, 5, (24, 32)),
                [("hilum out", reference), ("hilum in", other)],
                (3.0, 2.0),
                "SNR 20",
            )
        ]
        + [Cell(None, reason="already 5 mm thick") if i == 2 else Cell(rng.random((24, 32, 3)) * 255, (), None, "x")]
        for i in range(3)
    ]
    return contact_sheet(
        cells, "Noise", "A long question? " * 12, row_labels=["0", "1", "2"], structures=["liver", "tumour"]
    )


def test_every_figure_is_written_as_png_and_svg_and_is_not_blank(rows, tmp_path):
    paths = write_figures(rows, tmp_path / "figures")
    assert sorted(p.name for p in paths) == sorted(
        f"{name}.{kind}" for name in ("leaderboard", "transfer_matrix", "severity_curves") for kind in ("png", "svg")
    )
    for path in paths:
        if path.suffix == ".png":
            assert imread(path).std() > 0.05
        else:
            assert path.read_text().count("<path") > 50


def test_bytes_repeat(table, tmp_path):
    for name, draw in (("matrix", lambda: transfer_matrix(table)), ("sheet", sheet)):
        first, second = save(draw(), tmp_path / "a", name), save(draw(), tmp_path / "b", name)
        for one, two in zip(first, second, strict=True):
            assert one.read_bytes() == two.read_bytes()
            assert b"<dc:date>" not in one.read_bytes()


def test_drawing_leaves_the_callers_settings_alone(table):
    before = dict(matplotlib.rcParams)
    transfer_matrix(table)
    assert dict(matplotlib.rcParams) == before


def test_no_text_is_smaller_than_eight_points(rows, table):
    figures = [leaderboard_picture(table), transfer_matrix(table), severity_curves(rows), sheet(), page()]
    for figure in figures:
        sizes = [t.get_fontsize() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]
        assert min(sizes) >= 8
        assert figure.get_figwidth() <= style.WIDTH


def test_nothing_is_drawn_outside_the_page(rows, table):
    for figure in (leaderboard_picture(table), transfer_matrix(table), sheet(), page()):
        figure.canvas.draw()
        box = figure.get_tightbbox()  # inches
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()


def test_the_matrix_holds_each_mean_its_change_and_what_is_not_applicable(table):
    shown = texts(transfer_matrix(table))
    row = table[(table["method"] == "tent_bn") & (table["target"] == "snr:5")].iloc[0]
    assert f"{row['dsc']:.2f}" in shown
    assert f"−{row['drop']:.2f}" in shown
    n_domains = table.loc[table["method"] == "erm", ["scenario", "target"]].dropna().drop_duplicates().shape[0]
    n_columns = n_domains - 5  # the source of six scenarios is one column
    assert shown.count("n/a") == n_columns + 2  # histmatch everywhere; the oracle on the source and the control
    assert shown.count("site-a") == 1 and "Acquisition" in shown


def test_a_matrix_too_wide_for_the_page_is_cut_into_bands(table):
    wide = table.copy()
    more = wide[(wide["scope"] == "target") & (wide["family"] == "acquisition")]
    extra = [more.assign(scenario=f"s{i}", target=more["target"] + f"-{i}") for i in range(3)]
    figure = transfer_matrix(pd.concat([wide, *extra], ignore_index=True))
    assert figure.get_figwidth() == style.WIDTH
    assert texts(figure).count("tent_bn") == 2


def test_severity_curves_start_at_the_source_and_use_the_operators_unit(rows):
    figure = severity_curves(rows, methods=["erm", "tent_bn"])
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == ["flip-angle", "noise"]  # the control has no severity
    assert [t.get_text() for t in panels[1].get_xticklabels()] == ["source", "40", "15", "6"]
    assert "SNR" in panels[1].get_xlabel() and "flip angle" in panels[0].get_xlabel()
    erm = panels[1].lines[0].get_ydata()
    assert len(panels[1].lines) == 2 and len(panels[1].collections) == 2
    assert erm[0] > 0.78 and erm[-1] < 0.5 and (np.diff(erm) < 0).all()


def test_without_severities_there_are_no_curves(rows):
    assert severity_curves(rows[rows["scenario"] == "hilum"]) is None


def test_the_picture_of_the_leaderboard_shows_every_scored_method_and_hollow_dots_for_the_unranked(table):
    figure = leaderboard_picture(table)
    shown = texts(figure)
    assert {"erm", "tent_bn", "fewshot_ft_5", "target_oracle", "Overall", "Annotation"} <= set(shown)
    assert "histmatch" not in shown
    assert any("conditional on this trained model" in text for text in shown)
    annotation = next(axes for axes in figure.axes if axes.get_title() == "Annotation")
    faces = {line.get_markerfacecolor() for line in annotation.lines if line.get_marker() == "o"}
    assert "white" in faces and len(faces) > 1


def test_figures_of_two_backbones_are_drawn_one_by_one(rows, table):
    both = table.copy()
    both.loc[both["method"] == "tent_bn", "backbone"] = "unet_in"
    for draw in (leaderboard_picture, transfer_matrix):
        with pytest.raises(OutputError, match="several backbones"):
            draw(both)


def test_best_of_each_track_keeps_source_only_and_oracle(table):
    assert best_of_each_track(table) == ["erm", "target_oracle", "fewshot_ft_5", "tent_bn"]


def test_a_contour_runs_half_way_between_the_pixels_and_closes_at_the_border():
    mask = np.zeros((6, 7), bool)
    mask[2:4, 3:5] = True
    (line,) = images.contour_lines(mask)
    assert (line.min(axis=0) == [1.5, 2.5]).all() and (line.max(axis=0) == [3.5, 4.5]).all()
    (line,) = images.contour_lines(np.ones((3, 3), bool))
    assert (line[0] == line[-1]).all() and line.min() == -0.5 and line.max() == 2.5


def test_pictures_keep_the_proportions_of_the_patient():
    figure = contact_sheet([[Cell(np.random.default_rng(0).random((20, 40)), (), (5.0, 1.25))]], "t")
    axes = figure.axes[0]
    assert axes.get_aspect() == 4.0
    width, height = figure.get_size_inches() * axes.get_position().size
    assert height / width == pytest.approx(20 * 5 / (40 * 1.25))


@pytest.mark.parametrize(("window", "same"), [("column", True), ("row", False)])
def test_severities_of_a_column_share_the_grey_window_of_the_first(window, same):
    image = np.random.default_rng(0).random((16, 16))
    figure = contact_sheet([[Cell(image)], [Cell(3 * image + 1)]], "t", window=window)
    first, second = (axes.images[0].get_array() for axes in figure.axes)
    assert np.allclose(second, 1.0) == same  # brighter than the brightest of the first
    assert np.allclose(first, second) != same


def test_only_structures_that_a_second_protocol_changes_are_drawn_again():
    axes = sheet().axes[0]
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    outlines = [line for line in axes.lines if len(line.get_xdata()) > 2]  # all but the scale bar
    assert len(outlines) == 3 + 2  # liver with a hole for the tumour, tumour; liver again, with its hole
    assert dashed and all(line.get_color() == "white" for line in dashed)


def test_a_sheet_says_why_a_picture_is_missing_and_carries_scale_and_caption():
    shown = " ".join(texts(sheet())).replace("\n", " ")
    assert "not applicable: already 5 mm thick" in shown
    assert "20 mm" in shown and "10 px" in shown and "SNR 20" in shown
    assert "hilum in" in shown and "tumour" in shown


def test_a_sheet_of_unequal_rows_is_refused():
    cell = Cell(np.zeros((4, 4)))
    for cells in ([], [[cell], [cell, cell]]):
        with pytest.raises(ValueError, match="rows"):
            contact_sheet(cells, "t")


def page():
    reference = masks((48, 64))
    shifted = np.roll(reference, 2, axis=0)
    without = np.where(reference == 2, 0, reference)
    image = np.random.default_rng(0).normal(100, 5, reference.shape)
    predictions = {"erm": shifted, "tent_bn": None}
    return example_page(
        [
            Example("slices 5 mm", image, (2.0, 2.0), reference, predictions, ("liver", "tumour")),
            Example("no tumour", image, (2.0, 2.0), without, {"erm": reference}, ("liver", "tumour")),
        ],
        methods=["erm", "tent_bn"],
    )


def test_an_example_prints_the_dsc_of_its_slice_and_names_absent_structures():
    shown = texts(page())
    reference = masks((48, 64))
    shifted = np.roll(reference, 2, axis=0)
    liver, tumour = (slice_dsc(shifted == i, reference == i) for i in (1, 2))
    assert f"{liver:.2f}\n{tumour:.2f}" in shown
    assert "no prediction" in shown and any(text.endswith("false positive") for text in shown)
    assert slice_dsc(reference == 1, np.zeros_like(reference)) is None
    assert slice_dsc(np.zeros_like(reference), reference == 1) == 0.0


def test_an_example_is_cut_to_what_is_drawn_and_hides_no_false_positive():
    reference = np.zeros((60, 80), int)
    reference[20:30, 30:40] = 1
    image = np.random.default_rng(0).normal(size=reference.shape)
    near = example_page([Example("t", image, None, reference, {"erm": reference}, ("liver",))])
    stray = reference.copy()
    stray[58, 78] = 1
    far = example_page([Example("t", image, None, reference, {"erm": stray}, ("liver",))])
    assert near.axes[0].images[0].get_array().shape[0] < 30
    assert far.axes[0].images[0].get_array().shape[0] > 45


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save(sheet(), tmp_path / "file", "sheet")


def test_examples_of_different_structures_share_a_page_with_room_for_every_caption():
    image, reference = np.zeros((40, 40)), np.zeros((40, 40), int)
    reference[10:20, 10:20] = 1
    two = Example("a", image, None, reference, {"erm": reference}, ("liver", "tumour"))
    one = Example("b", image, None, reference, {"erm": reference}, ("nucleus",))
    page = example_page([one, two])
    (legend,) = page.legends
    assert [text.get_text() for text in legend.get_texts()] == ["nucleus, liver", "tumour"]
    tall, short = example_page([two, two]), example_page([one, one])
    assert short.get_figheight() < page.get_figheight() < tall.get_figheight()
