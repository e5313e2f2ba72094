"""The page of an evaluation: it says what the files say, stands alone, and no text in it becomes markup."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from drawn_runs import train_drawn_run

from resnet_zclass import evaluate, figures, heat_maps, highlights, metrics, report, train
from resnet_zclass.runs import read_run

HOSTILE = ['<script>document.title="taken"</script>', "</script><img src=x onerror=alert(1)>", 'it\'s "$1" & {{ 7*7 }}']


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Two evaluated runs on the same drawn beads."""
    folder = tmp_path_factory.mktemp("evaluated")
    first = train_drawn_run(folder)
    assert evaluate.main(["--load_logs_path", str(first)]) == 0
    words = ["--model_name", "ResNet8", "--hidden", "16", "--batch_size", "8", "--seed", "2", "--epochs", "1"]
    words += ["--data_path", str(folder / "set"), "--save_logs_path", str(folder), "--run_name", "other"]
    assert train.main(words) == 0
    return first, folder / "other"


def write_hostile_report(folder: Path, run_path: Path, n: int = 30) -> Path:
    """A page of random predictions of classes whose names try to break out of it; every image is one gray."""
    run = read_run(run_path)
    run = dataclasses.replace(run, classes=run.classes.assign(LabelText=HOSTILE))
    rng = np.random.default_rng(0)
    truth, probabilities = rng.integers(3, size=n), rng.dirichlet(np.ones(3), size=n)
    rows = pd.DataFrame({"file": [f"{HOSTILE[1]}{k}.tif" for k in range(n)], "page": 0})
    scores = metrics.classification_metrics(truth, probabilities) | {"data_path": HOSTILE[0], "split": "test"}
    crops = np.full((n, 8, 8, 1), 7, "uint8")
    folder.mkdir()
    report.write_report(folder, run, scores, rows, truth, probabilities, crops)
    return folder / "report.html"


def crops_in(page: str) -> list[dict]:
    return json.loads(re.search(r'<script type="application/json" id="crops">(.*?)</script>', page, re.DOTALL).group(1))


def cells_in(page: str) -> dict[tuple[int, int], tuple[int, list[int]]]:
    found = re.findall(r'data-row="(\d+)" data-column="(\d+)" data-count="(\d+)" data-crops="([\d ]*)"', page)
    return {(int(i), int(j)): (int(n), [int(k) for k in places.split()]) for i, j, n, places in found}


def test_the_page_counts_as_the_tables_do(evaluated):
    folder = evaluated[0] / "evaluation"
    page, scores = (folder / "report.html").read_text(), json.loads((folder / "metrics.json").read_text())
    table = pd.read_csv(folder / "predictions.csv", dtype={"true_label": str, "label": str})
    names = list(read_run(evaluated[0]).class_names)
    counts = np.zeros((len(names), len(names)), int)
    for (i, j), (n, places) in cells_in(page).items():
        counts[i, j] = n
        assert len(places) == min(n, 12)
        for crop in (crops_in(page)[k] for k in places):
            row = table[(table.page == int(re.search(r"page (\d+)", crop["words"]).group(1)))
                        & (table.file.map(lambda file: Path(file).name) == crop["words"].split("(")[1].split(",")[0])
                        & (table.true_label == names[i])]  # fmt: skip
            assert (row.label == names[j]).any()
    np.testing.assert_array_equal(counts, sklearn.metrics.confusion_matrix(table.true_label, table.label, labels=names))
    assert f"Right for {scores['accuracy']:.1%} of {scores['n']} images" in page


def test_the_page_asks_nothing_of_the_network_and_is_small(evaluated):
    for path in (evaluated[0] / "evaluation").glob("*.html"):
        page = path.read_text()
        assert path.stat().st_size < 5e6
        sources = re.findall(r'\b(?:src|href|xlink:href)="([^"]*)"', page)
        assert all(source.startswith(("data:", "#")) for source in sources)
        assert "url(http" not in page
        assert "@import" not in page


def test_identifiers_of_figures_do_not_clash(evaluated):
    names = re.findall(r'\bid="([^"]+)"', (evaluated[0] / "evaluation" / "report.html").read_text())
    wanted = set(re.findall(r'(?:href="|url\()#([^")]+)', (evaluated[0] / "evaluation" / "report.html").read_text()))
    assert len(names) == len(set(names))
    assert wanted <= set(names)


def test_hostile_names_stay_text(evaluated, tmp_path):
    page = write_hostile_report(tmp_path / "hostile", evaluated[0]).read_text()
    assert len(re.findall(r"<script", page)) == 2  # the data and the package's own
    assert "<img src=x" not in page
    assert "{{ 7*7 }}" in page.replace("&#39;", "'")
    assert "&lt;script&gt;" in page


def test_report_writes_the_same_page_again(evaluated, tmp_path, capsys):
    path = evaluated[0] / "evaluation" / "report.html"
    before = path.read_text()
    assert report.main([str(evaluated[0])]) == 0
    after = path.read_text()
    assert crops_in(after) == crops_in(before)
    assert re.sub(r'src="data:image/png[^>]*', "", after) == re.sub(r'src="data:image/png[^>]*', "", before)


def test_without_the_set_the_page_has_numbers_and_no_images(evaluated, tmp_path, capsys):
    run = read_run(evaluated[0])
    gone = dataclasses.replace(run, options=dataclasses.replace(run.options, data_path=str(tmp_path / "gone")))
    scores = report.read_scores(run.path / "evaluation") | {"data_path": str(tmp_path / "gone")}
    table = pd.read_csv(run.path / "evaluation" / "predictions.csv", dtype={"true_label": str})
    assert report._find_crops(gone, scores, table[["file", "page"]]) is None
    assert "shows no images" in capsys.readouterr().out
    truth = report.read_truth(run, table.true_label)
    probabilities = table[[f"p_{name}" for name in run.class_names]].to_numpy()
    report.write_report(tmp_path, gone, scores, table[["file", "page"]], truth, probabilities)
    page = (tmp_path / "report.html").read_text()
    assert crops_in(page) == []
    assert sum(n for n, _ in cells_in(page).values()) == len(table)


def test_several_runs_side_by_side(evaluated, tmp_path, capsys):
    path = tmp_path / "both.html"
    assert report.main([*map(str, evaluated), "--save_path", str(path)]) == 0
    page = path.read_text()
    tables = [pd.read_csv(run / "evaluation" / "predictions.csv") for run in evaluated]
    rights = [(table.label == table.true_label).to_numpy() for table in tables]
    only = (rights[0] & ~rights[1]).sum(), (rights[1] & ~rights[0]).sum()
    assert f"{only[0]} only by the first, {only[1]} only by the second" in page
    for flag in ("--seed", "--epochs", "--run_name"):
        assert re.search(rf'<th scope="row">{flag}</th>', page)
    assert '<th scope="row">--batch_size</th>' not in page  # is the same in both
    assert report.main([*map(str, evaluated), "--save_path", str(path)]) == 2
    assert "both.html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the folder of a run is missing"),
        (["RUN", "--evaluation", "evaluation_val"], "evaluate the run first"),
        (["RUN", "nowhere"], "nowhere is not a folder"),
        (["RUN", "--save_path", "x.html"], "--save_path is for several runs"),
        (["nowhere"], "nowhere is not a folder"),
    ],
)
def test_what_cannot_be_shown_is_refused(words, said, evaluated, capsys):
    assert report.main([str(evaluated[0]) if word == "RUN" else word for word in words]) == 2
    assert said in capsys.readouterr().err


def test_a_heat_map_is_hot_where_the_class_is_read_off():
    crop = np.zeros((12, 20, 2), "uint16")
    crop[6:9, 10:14, 1] = 500

    def predict(crops):
        assert crops.dtype == np.uint16
        p = crops[:, 6:9, 10:14, 1].mean(axis=(1, 2)) / 1000
        return np.stack([1 - p, p], axis=1)

    heat = heat_maps.occlude(predict, crop, 1)
    assert heat.shape == (12, 20)
    inside = heat[6:9, 10:14]
    assert inside.min() > heat[:, :5].max()
    assert inside.max() <= 0.5
    np.testing.assert_allclose(heat_maps.occlude(predict, crop, 0), -heat)
    np.testing.assert_array_equal(heat_maps.occlude(predict, np.full_like(crop, 9), 1), 0)


def test_every_image_lies_behind_one_cell():
    rng = np.random.default_rng(0)
    truth, p = rng.integers(4, size=200), rng.dirichlet(np.ones(4), size=200)
    cells = highlights.confusion_cells(truth, p)
    assert sorted(np.concatenate(list(cells.values()))) == list(range(200))
    for (i, j), images in cells.items():
        assert (truth[images] == i).all()
        assert (p[images].argmax(axis=1) == j).all()
        assert (np.diff(p[images, j]) <= 0).all()
    targets, thresholds = rng.integers(2, size=(200, 4)), np.full(4, 0.3)
    decisions = highlights.decision_cells(targets, p, thresholds)
    scores = metrics.per_class_multi_label(targets, p, thresholds)
    for column, key in enumerate(("tp", "fn", "fp")):
        np.testing.assert_array_equal([len(decisions.get((k, column), [])) for k in range(4)], scores[key])


def test_of_planes_the_worst_is_farthest_off():
    truth = np.array([0, 0, 1])
    p = np.array([[0.3, 0.1, 0.6], [0.01, 0.98, 0.01], [0.0, 1.0, 0.0]])
    assert highlights.rank_worst(truth, p, are_planes=True).tolist() == [0, 1, 2]
    assert highlights.rank_worst(truth, p).tolist() == [1, 0, 2]


def test_charts_are_saved_as_svg_too_with_the_colours_of_the_page(tmp_path):
    from resnet_zclass.page import inline_figure

    figures.draw_confusion(np.eye(3), ["a", "b", "<c>"], tmp_path / "confusion.png")
    svg = (tmp_path / "confusion.svg").read_text()
    figures.draw_confusion(np.eye(3), ["a", "b", "<c>"], tmp_path / "confusion.png")
    assert (tmp_path / "confusion.svg").read_text() == svg  # no date, no random names
    markup = inline_figure(tmp_path / "confusion.png", 'says "so"')
    assert figures.INK in svg
    assert figures.INK not in markup
    assert "currentColor" in markup
    assert 'aria-label="says &#34;so&#34;"' in markup


def copy_run(run, folder):
    import shutil

    shutil.copytree(run, folder / "copy")
    return folder / "copy"


def cut_predictions(folder):
    path = folder / "evaluation" / "predictions.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]))


DAMAGES = {
    "predictions cut": cut_predictions,
    "predictions empty": lambda run: (run / "evaluation" / "predictions.csv").write_text(""),
    "metrics a list": lambda run: (run / "evaluation" / "metrics.json").write_text("[]"),
    "metrics without n": lambda run: (run / "evaluation" / "metrics.json").write_text("{}"),
    "metrics of words": lambda run: (run / "evaluation" / "metrics.json").write_text('{"n": 18, "accuracy": "x"}'),
    "split binary": lambda run: (run / "split.csv").write_bytes(bytes(range(128, 256))),
    "crop shape": lambda run: (run / "crops.json").write_text('{"crop_shape": [9], "resized": 0, "cut_out": 0}'),
    "options": lambda run: (run / "opts.toml").write_text("x ="),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_one_line_that_names_it_and_leaves_the_page(damage, evaluated, tmp_path, capsys):
    run = copy_run(evaluated[0], tmp_path)
    before = (run / "evaluation" / "report.html").read_text()
    DAMAGES[damage](run)
    assert report.main([str(run)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and str(run) in told
    assert (run / "evaluation" / "report.html").read_text() == before


@pytest.mark.parametrize("damage", ["", "garbage", "<svg"])
def test_a_damaged_figure_is_shown_as_its_png(damage, evaluated, tmp_path):
    run = copy_run(evaluated[0], tmp_path)
    (run / "evaluation" / "reliability.svg").write_text(damage)
    assert report.main([str(run)]) == 0
    assert 'class="figure" src="data:image/png' in (run / "evaluation" / "report.html").read_text()


def test_other_images_are_not_taken_for_the_same(evaluated, tmp_path):
    run = copy_run(evaluated[0], tmp_path)
    path = run / "evaluation" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_path": "elsewhere", "n_seen": 4}))
    assert report.main([str(evaluated[0]), str(run), "--save_path", str(tmp_path / "both.html")]) == 0
    page = (tmp_path / "both.html").read_text()
    assert "not the same" in page and "McNemar" not in page
    assert "elsewhere" in page and "images that training saw too" in page


def test_pictures_of_a_set_whose_pixels_changed_are_not_shown(evaluated, tmp_path, capsys, monkeypatch):
    run = copy_run(evaluated[0], tmp_path)
    find = report._find_crops
    monkeypatch.setattr(report, "_find_crops", lambda *words: find(*words)[np.arange(18)[::-1]])
    assert report.main([str(run)]) == 0
    assert "sees others" in capsys.readouterr().out
    assert crops_in((run / "evaluation" / "report.html").read_text()) == []
    assert not (run / "evaluation" / "heat_maps.png").exists()


def test_other_predictions_are_noticed_however_many_classes():
    rng = np.random.default_rng(0)
    known = 0.8 * np.eye(39)[rng.integers(39, size=50)] + 0.2 / 39
    others = np.roll(known, 1, axis=1)
    assert report._are_those(lambda crops: known[crops], np.arange(50), known)
    assert report._are_those(lambda crops: 0.95 * known[crops] + 0.05 / 39, np.arange(50), known)  # views averaged
    assert not report._are_those(lambda crops: others[crops], np.arange(50), known)


def test_of_several_labels_mistakes_come_first():
    cells = {(k, column): np.array([10 * k + column]) for k in range(3) for column in range(3)}
    order = [cell for cell, _ in highlights.take_in_turn(cells, several=True)]
    assert {column for _, column in order[:6]} == {1, 2}
