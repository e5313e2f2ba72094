import itertools

import numpy as np
import pytest

from resnet_zclass import figures, gallery


@pytest.fixture
def drawn(monkeypatch):
    """Every figure that is saved, as Matplotlib's object; it is drawn too, so that what fails then fails here."""
    kept = []

    def keep(figure, path):
        figure.canvas.draw()
        kept.append(figure)

    monkeypatch.setattr(figures, "save_chart", keep)
    monkeypatch.setattr(figures, "save_figure", keep)
    monkeypatch.setattr(gallery, "save_figure", keep)
    return kept


def lines_of(axes):
    return {line.get_label(): np.asarray(line.get_ydata(), float) for line in axes.lines}


def test_curves_show_loss_score_and_rate_and_mark_the_best_epoch(drawn):
    history = {"loss": [3, 2, 1], "val_loss": [4, 3, 5], "val_macro_f1": [0.1, 0.5, 0.4], "learning_rate": [1, 0.1, 0]}
    figures.draw_curves(history, "", "title", score="macro_f1", best_epoch=1)
    loss, score, rate = drawn[0].axes
    np.testing.assert_array_equal(lines_of(loss)["training"], history["loss"])
    np.testing.assert_array_equal(lines_of(score)["validation"], history["val_macro_f1"])
    assert lines_of(score)["training"].size == 0
    assert rate.get_yscale() == "log"
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), [1, 0.1, np.nan])
    for axes in drawn[0].axes:
        assert axes.get_xlabel() == "epoch"
        assert axes.lines[-1].get_xdata()[0] == 2  # epochs count from 1
    assert [text.get_text() for text in drawn[0].legends[0].texts] == ["training", "validation", "best epoch"]


@pytest.mark.parametrize(("losses", "scale"), [([3, 1], "linear"), ([300, 1], "log"), ([300, 0], "linear")])
def test_a_loss_over_decades_has_a_log_axis(losses, scale, drawn):
    figures.draw_curves({"loss": losses}, "")
    assert drawn[0].axes[0].get_yscale() == scale


def test_curves_of_nothing_and_of_nan_are_drawn(drawn):
    figures.draw_curves({}, "")
    figures.draw_curves({"loss": [np.nan], "learning_rate": [np.nan]}, "")
    assert len(drawn) == 2


def bar_widths(axes):
    return [[bar.get_width() for bar in bars] for bars in axes.containers]


def words_in(axes):
    return [text.get_text() for text in axes.texts]


def test_class_counts_have_a_panel_per_split_and_mark_what_is_drawn_more_often(drawn):
    figures.draw_class_counts(["a", "b"], {"train": [3, 30], "test": [1, 2]}, [20, 30], "")
    train, test = drawn[0].axes
    assert bar_widths(train) == [[3, 30], [20, 30]]
    assert words_in(train) == ["3, drawn 20", "30"]
    assert bar_widths(test) == [[1, 2]]
    assert [label.get_text() for label in train.get_yticklabels()] == ["a", "b"]
    assert train.get_ylim()[0] > train.get_ylim()[1]  # the first class is on top
    assert {axes.get_xscale() for axes in drawn[0].axes} == {"linear"}


def test_rare_classes_beside_common_ones_are_seen(drawn):
    figures.draw_class_counts(["a", "b"], {"train": [0, 5000], "val": [1, 2]}, None, "")
    assert {axes.get_xscale() for axes in drawn[0].axes} == {"symlog"}
    assert not drawn[0].legends


@pytest.mark.parametrize("n_classes", [2, 60])
def test_names_of_classes_do_not_overlap_and_leave_room_for_the_bars(n_classes, drawn):
    names = [f"a very long name of a class, of the kind that people write {k}" for k in range(n_classes)]
    counts = np.arange(n_classes) + 1
    figures.draw_class_counts(names, dict.fromkeys(("train", "val", "test"), counts), counts, "")
    scores = dict.fromkeys(("f1", "precision", "recall"), np.linspace(0, 1, n_classes))
    figures.draw_class_scores(names, scores | {"n": counts}, "")
    for figure in drawn:
        labels = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
        assert all(upper.y0 >= lower.y1 - 1 for upper, lower in itertools.pairwise(labels))
        shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert len(set(shown)) == n_classes
        assert max(map(len, shown)) == 40
        assert all(axes.get_window_extent().width > 0.15 * figure.bbox.width for axes in figure.axes)


def test_class_scores_are_sorted_by_number_of_images(drawn):
    scores = {
        "f1": np.array([0.2, np.nan, 0.8]),
        "precision": np.array([0.1, np.nan, 0.7]),
        "recall": np.array([0.3, 0.0, 0.9]),
        "n": np.array([5, 1, 50]),
    }
    figures.draw_class_scores(["rare", "rarer", "common"], scores, "")
    (axes,) = drawn[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["common", "rare", "rarer"]
    assert bar_widths(axes) == [[0.8, 0.2, 0.0]]
    np.testing.assert_array_equal(lines_of(axes)["precision"], [0, 1, 2])
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [0.7, 0.1, np.nan])
    assert words_in(axes) == ["0.80   n = 50", "0.20   n = 5", "no F1   n = 1"]
    assert scores["n"].tolist() == [5, 1, 50]


def test_a_plan_of_rates_says_where_there_is_none(drawn):
    figures.draw_rate_plan([("round 1", []), ("round 2", [1e-3, 1e-4])], "")
    without, planned = drawn[0].axes
    assert "depends on the results" in words_in(without)[0]
    assert not without.lines
    np.testing.assert_array_equal(planned.lines[0].get_ydata(), [1e-3, 1e-4])
    assert (planned.get_yscale(), planned.get_title(loc="left")) == ("log", "round 2")


def test_pictures_are_written_whole(tmp_path):
    figures.draw_rate_plan([("a", [0.1])], tmp_path / "plan.png")
    gallery.draw_augmented(np.zeros((1, 2, 4, 4, 1), "uint8"), tmp_path / "sheet.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.png", "plan.svg", "sheet.png"]
    assert (tmp_path / "plan.png").read_bytes()[:4] == b"\x89PNG"


def test_rgb_of_8_bits_is_shown_as_it_is():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype("uint8")
    np.testing.assert_allclose(gallery.show_colours(images), images / 255)


def test_rgb_of_16_bits_keeps_its_colours():
    ramp = np.linspace(0, 4000, 100).reshape(1, 10, 10, 1)
    shown = gallery.show_colours((ramp * [1.0, 0.5, 0.0]).astype("uint16"))
    np.testing.assert_allclose(shown[0, 5, 5] / shown[0, 5, 5, 0], [1, 0.5, 0], atol=0.01)


@pytest.mark.parametrize(
    ("n_channels", "colours"),
    [
        (1, [(1, 1, 1)]),
        (2, [(0, 1, 0), (1, 0, 1)]),
        (4, [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)]),
        (6, [(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1)]),
    ],
)
def test_each_channel_has_its_colour_and_its_contrast(n_channels, colours):
    images = np.zeros((1, 1, n_channels, n_channels), "uint16")
    images[0, 0] = np.diag(np.arange(1, n_channels + 1) * 100)
    if n_channels == 1:
        images = np.array([0, 7], "float32").reshape(1, 1, 2, 1)
    shown = gallery.show_colours(images)
    np.testing.assert_allclose(shown[0, 0, -n_channels:], colours, atol=0.02)


def test_a_row_of_the_sheet_shares_its_contrast_and_begins_with_the_original(drawn):
    sheet = np.zeros((2, 3, 8, 8, 1), "float32")
    sheet[0, :, 2:6, 2:6] = np.array([4, 2, 1]).reshape(3, 1, 1, 1)
    sheet[1] = 1000 * sheet[0]
    before = sheet.copy()
    gallery.draw_augmented(sheet, "", "title")
    (axes,) = drawn[0].axes
    canvas = axes.images[0].get_array()
    assert canvas.shape == (17, 26, 3)
    for top in (0, 9):
        assert [float(canvas[top + 4, left + 4, 0]) for left in (0, 9, 18)] == [1.0, 0.5, 0.25]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["original", "view 1", "view 2"]
    np.testing.assert_array_equal(sheet, before)
