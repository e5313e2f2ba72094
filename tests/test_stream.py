"""Predictions that are written while they are made: the same files, whole or not at all, whatever the engine."""

import os
import signal

import numpy as np
import pandas as pd
import pytest
import tifffile
from drawn import draw_crops, write_drawn_set

import resnet_zclass as rz
from resnet_zclass import images, predict, predictions, train
from resnet_zclass.runs import read_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    data = write_drawn_set(folder / "set", n_per_class=12)
    words = ["--data_path", data, "--save_logs_path", folder, "--epochs", 1, "--no_evaluate", "--shift_px", 0]
    assert train.main([*map(str, words), "--model_name", "ResNet8", "--hidden", "16", "--seed", "1"]) == 0
    return folder / "ResNet8"


@pytest.fixture
def inputs(tmp_path):
    """Seven files: pages in one piece, compressed pages, single images; with the crops in their order."""
    crops, _ = draw_crops(n_per_class=10, seed=5)
    folder = tmp_path / "in"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", crops[:11], photometric="minisblack")
    tifffile.imwrite(folder / "b.tif", crops[11:25], photometric="minisblack", compression="zlib")
    for i in range(25, 30):
        tifffile.imwrite(folder / f"c{i}.tif", crops[i])
    return folder, crops


def run_predict(run, *words):
    return predict.main(["--load_logs_path", str(run), *map(str, words)])


def expect(run, rows, crops):
    """The table and the probabilities of all crops at once, by Keras' own `predict`."""
    run = read_run(run)
    probabilities = run.load_model().predict(crops, verbose=0)
    return predict.build_table(run, rows, probabilities), probabilities


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_streamed_files_are_those_of_one_table(batch_size, finished, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "RUN_BYTES", 3 * 16 * 16 * 2)  # runs of three pages
    monkeypatch.setattr(predictions, "PART_ROWS", 7)
    folder, crops = inputs
    words = [folder, "--pred_save_path", tmp_path / "o.csv", "--pred_save_name", tmp_path / "o.npy"]
    assert run_predict(finished, *words, "--batch_size", batch_size) == 0
    rows = [{"file": str(folder / "a.tif"), "page": i} for i in range(11)]
    rows += [{"file": str(folder / "b.tif"), "page": i} for i in range(14)]
    rows += [{"file": str(folder / f"c{i}.tif"), "page": 0} for i in range(25, 30)]
    unlike = read_run(finished).familiar.score(crops[..., None])
    rows = [row | {"unlike": score} for row, score in zip(rows, unlike, strict=True)]
    table, probabilities = expect(finished, rows, crops[..., None])
    np.testing.assert_allclose(np.load(tmp_path / "o.npy", mmap_mode="r"), probabilities, atol=1e-6)
    table.to_csv(tmp_path / "all.csv", index=False)
    read = [pd.read_csv(tmp_path / name, dtype={"label": str}) for name in ("o.csv", "all.csv")]
    pd.testing.assert_frame_equal(*read, rtol=0, atol=1e-5)
    collected, p = predict.predict_files(read_run(finished), [folder], batch_size=batch_size)
    collected.to_csv(tmp_path / "collected.csv", index=False)
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "collected.csv").read_bytes()
    np.testing.assert_array_equal(p, np.load(tmp_path / "o.npy"))


def test_a_batch_spans_files_and_is_full(finished, inputs, monkeypatch):
    seen = []

    def load_engine(name, path):
        return lambda crops: seen.append(crops) or np.full((len(crops), 3), 1 / 3, "float32")

    monkeypatch.setattr(rz.engines, "load_engine", load_engine)
    folder, crops = inputs
    predict.predict_files(read_run(finished), [folder], batch_size=8)
    assert [len(batch) for batch in seen] == [8, 8, 8, 6]
    np.testing.assert_array_equal(np.concatenate(seen), crops[..., None])


def test_no_more_is_read_than_is_predicted(finished, tmp_path, monkeypatch):
    """What is in memory at a time is bounded: crops are predicted before further ones are read."""
    crops, _ = draw_crops(n_per_class=30, seed=5)
    tifffile.imwrite(tmp_path / "a.tif", crops, photometric="minisblack")
    monkeypatch.setattr(images, "RUN_BYTES", 10 * 16 * 16 * 2)
    monkeypatch.setattr(predictions, "PART_ROWS", 10)
    events = []
    original = images._convert
    monkeypatch.setattr(images, "_convert", lambda pixels, path: events.append("read") or original(pixels, path))
    _, parts = predict.predict_parts(read_run(finished), [tmp_path / "a.tif"], batch_size=5)
    for rows, _ in parts:
        events.append(len(rows))
    assert events == ["read", 10] * 9


def test_beads_found_after_whole_pages_get_columns_of_their_own(finished, tmp_path, monkeypatch):
    crops, _ = draw_crops(n_per_class=2, seed=5)
    field = np.full((2, 60, 60), 5, "uint16")
    field[:, 4:20, 4:20] = field[:, 30:46, 36:52] = crops[0]
    for name, pages in (("a.tif", crops), ("b.tif", field), ("c.tif", crops)):
        tifffile.imwrite(tmp_path / name, pages, photometric="minisblack")
    at_once, _ = predict.predict_files(read_run(finished), [tmp_path])
    at_once.to_csv(tmp_path / "all.csv", index=False)
    monkeypatch.setattr(predictions, "PART_ROWS", 2)
    assert run_predict(finished, tmp_path, "--pred_save_path", tmp_path / "o.csv", "--batch_size", 2) == 0
    assert list(pd.read_csv(tmp_path / "o.csv").columns[-2:]) == ["y", "x"]
    assert at_once.y.notna().sum() >= 2
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "o.csv"), pd.read_csv(tmp_path / "all.csv"), atol=1e-6)


@pytest.mark.parametrize("fault", ["damaged", "smaller", "interrupted"])
def test_a_failure_in_the_last_file_leaves_nothing(fault, finished, inputs, tmp_path, monkeypatch, capfd):
    folder, crops = inputs
    monkeypatch.setattr(predictions, "PART_ROWS", 4)
    last = folder / "z.tif"
    tifffile.imwrite(last, crops[0] if fault != "smaller" else crops[0, :8])
    if fault == "damaged":
        last.write_bytes(last.read_bytes()[:300])
    if fault == "interrupted":
        original = rz.stream.open_channels

        def interrupt(files):
            if files[0] == last:
                assert list((tmp_path / "new").glob(".o.partial*"))  # something was written by then
                os.kill(os.getpid(), signal.SIGINT)
            return original(files)

        monkeypatch.setattr(rz.stream, "open_channels", interrupt)
    out = tmp_path / "new"
    words = [folder, "--pred_save_path", out / "o.csv", "--pred_save_name", out / "o.npy", "--batch_size", 4]
    assert run_predict(finished, *words) == (130 if fault == "interrupted" else 2)
    assert ("interrupted" if fault == "interrupted" else str(last)) in capfd.readouterr().err
    assert not out.exists()


def test_the_engine_is_named_and_unknown_ones_are_refused(finished, inputs, tmp_path, capfd):
    out = tmp_path / "o.csv"
    assert run_predict(finished, inputs[0], "--pred_save_path", out, "--engine", "keras") == 0
    assert "engine: keras" in capfd.readouterr().out
    for name in ("fastest", "onnx", "litert"):  # of the last two there is no export
        assert run_predict(finished, inputs[0], "--pred_save_path", tmp_path / "p.csv", "--engine", name) == 2
        err = capfd.readouterr().err
        assert err.startswith("error: ")
        assert name in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "o.csv", "o.csv.made_from.json"]


def test_the_keras_engine_is_the_model_alone_or_in_batches(finished):
    crops, _ = draw_crops(n_per_class=3, seed=6)
    name, path = rz.engines.choose_engine(finished)
    engine = rz.engines.load_engine(name, path)
    expected = read_run(finished).load_model().predict(crops[..., None], verbose=0)
    np.testing.assert_allclose(engine(crops[..., None]), expected, atol=1e-6)
    np.testing.assert_allclose(engine(crops[::-1, ..., None]), expected[::-1], atol=1e-6)
    for i in (0, 4):
        np.testing.assert_allclose(
            engine(crops[i : i + 1, ..., None].astype("float32")), expected[i : i + 1], atol=1e-6
        )
    assert engine(crops[..., None]).dtype == np.float32


def test_a_model_of_other_classes_than_the_run_is_refused(finished, inputs, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(rz.engines, "load_engine", lambda *_: lambda crops: np.full((len(crops), 4), 0.25, "float32"))
    assert run_predict(finished, inputs[0], "--pred_save_path", tmp_path / "o.csv") == 2
    assert "4 classes" in capfd.readouterr().err
