"""What was made from what is written beside it, and noticed when it is true no more."""

import json
import os
import shutil
import time

import h5py
import numpy as np
import pandas as pd
import pytest
from drawn import draw_crops, write_drawn_set
from drawn_stacks import draw_stack, place_grid

import resnet_zclass as rz
from resnet_zclass import make_dataset, pack, predict
from resnet_zclass.errors import InputError
from resnet_zclass.files import hash_file
from resnet_zclass.images import write_stack
from resnet_zclass.loader import read_dataset
from resnet_zclass.provenance import FORMAT, find_record, hash_rows, read_record, write_record
from resnet_zclass.runs import MODEL_FILE, hash_data, read_run


def test_a_set_knows_its_sources(tmp_path):
    stack_path = tmp_path / "field.tif"
    stack = draw_stack(place_grid(4, 3), 10.0, field_px=(180, 140), photons=20000, seed=0)
    write_stack(stack_path, stack, z_step_um=0.2)
    words = ["--source_path", stack_path, "--data_path", tmp_path / "set", "--planes", 5, "--crop_px", 16]
    assert make_dataset.main([*map(str, words)]) == 0
    record = read_record(tmp_path / "set")
    assert record["format"] == FORMAT
    assert record["sources"] == {str(stack_path): hash_file(stack_path)}
    assert record["options"]["planes"] == 5


def test_a_run_knows_its_data_and_its_model(drawn_run, tmp_path, capfd):
    run = read_run(drawn_run)
    data = run.read_own_set()
    assert read_record(drawn_run) == {
        "format": FORMAT,
        "resnet_zclass": rz.__version__,
        "model_sha256": hash_file(drawn_run / MODEL_FILE),
        "data_sha256": hash_data(data),
    }
    run.load_model()
    assert "warning" not in capfd.readouterr().err
    shutil.copytree(drawn_run, tmp_path / "run")
    model = run.load_model()
    model.layers[-1].set_weights([weight + 1 for weight in model.layers[-1].get_weights()])
    model.save(tmp_path / "run" / MODEL_FILE)
    read_run(tmp_path / "run").load_model()
    assert "model.keras is not the one that its training wrote" in capfd.readouterr().err


def test_the_hash_of_a_set_is_of_what_it_holds_and_not_of_names_or_order(tmp_path):
    data = read_dataset(write_drawn_set(tmp_path / "a", n_per_class=5))
    items = data.items
    other = rz.loader.dataclasses.replace(data, items=items.sample(frac=1, random_state=0).assign(file="x"))
    assert hash_data(other) == hash_data(data)
    for column in ("label", "group", "digest", "split"):
        changed = items.assign(**{column: ["other", *items[column][1:]]})
        assert hash_data(rz.loader.dataclasses.replace(data, items=changed)) != hash_data(data)
    assert hash_rows({"a": ["1", "23"]}) != hash_rows({"a": ["12", "3"]})


def test_an_evaluation_knows_run_and_data(drawn_run, tmp_path):
    from resnet_zclass import evaluate

    shutil.copytree(drawn_run, tmp_path / "run")
    assert evaluate.main(["--load_logs_path", str(tmp_path / "run")]) == 0
    record = read_record(tmp_path / "run" / "evaluation")
    assert record["model_sha256"] == hash_file(drawn_run / MODEL_FILE)
    assert record["data_sha256"] == read_record(drawn_run)["data_sha256"]


def test_predictions_know_images_and_model(drawn_run, tmp_path):
    write_stack(tmp_path / "a.tif", draw_crops(n_per_class=2)[0])
    words = [tmp_path / "a.tif", "--load_logs_path", drawn_run, "--pred_save_path", tmp_path / "p.csv"]
    assert predict.main([*map(str, words)]) == 0
    record = json.loads((tmp_path / "p.csv.made_from.json").read_text())
    assert record["inputs"] == {str(tmp_path / "a.tif"): hash_file(tmp_path / "a.tif")}
    assert record["model_sha256"] == hash_file(drawn_run / MODEL_FILE)
    assert record["format"] == FORMAT


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "x"}', '{"format": 1e999}', "\x00", "[" * 10_000])
def test_a_damaged_record_is_named(content, tmp_path):
    find_record(tmp_path).write_text(content)
    with pytest.raises(InputError, match=r"made_from\.json is damaged"):
        read_record(tmp_path)


def test_a_record_of_a_later_version_is_not_guessed_at(tmp_path):
    write_record(tmp_path, a=1)
    assert read_record(tmp_path)["a"] == 1
    find_record(tmp_path).write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(InputError, match="later version of resnet_zclass"):
        read_record(tmp_path)
    assert read_record(tmp_path / "older") == {}


# Packs


@pytest.fixture
def images(tmp_path):
    data_path = write_drawn_set(tmp_path / "set", n_per_class=4)
    return data_path, sorted(path for path in data_path.rglob("*.tif"))


CHANGES = {
    "changed": lambda files: write_stack(files[0], draw_crops(seed=9)[0][:2]),
    "renamed": lambda files: files[0].rename(files[0].with_name("zz.tif")),
    "removed": lambda files: files[0].unlink(),
    "added": lambda files: shutil.copy(files[0], files[0].with_name("zz.tif")),
    "swapped": lambda files: [
        files[0].rename(files[0].with_name("x")),
        files[1].rename(files[0]),
        files[0].with_name("x").rename(files[1]),
    ],
}


def list_files(data_path):
    return [[path.relative_to(data_path).as_posix()] for path in sorted(data_path.rglob("*.tif"))]


@pytest.mark.parametrize("change", CHANGES)
def test_a_pack_of_other_images_is_made_anew(change, images):
    data_path, files = images
    pack_path = pack.pack_images(data_path, list_files(data_path))
    before = h5py.File(pack_path).attrs["key"]
    CHANGES[change](files)
    again = pack.pack_images(data_path, list_files(data_path))
    assert h5py.File(again).attrs["key"] != before
    expected = np.concatenate([rz.images.read_pages(path) for path in sorted(data_path.rglob("*.tif"))])
    np.testing.assert_array_equal(pack.open_pack(again).crops[..., 0], expected)


def test_an_image_that_changes_within_a_tick_of_a_coarse_clock_is_noticed(images, monkeypatch):
    data_path, files = images
    at = time.time_ns() // 10**9 * 10**9
    stat = os.stat

    class Coarse:
        def __init__(self, found):
            self.st_size, self.st_mtime_ns, self.st_ctime_ns = found.st_size, at, at

    monkeypatch.setattr(
        pack.os,
        "stat",
        lambda path, **how: (
            Coarse(stat(path)) if isinstance(path, str) and path.endswith(".tif") else stat(path, **how)
        ),
    )
    first = pack.open_pack(pack.pack_images(data_path, list_files(data_path))).crops[0]
    content = bytearray(files[0].read_bytes())
    content[-1] ^= 1
    files[0].write_bytes(content)
    pages = len(rz.images.read_pages(files[0]))
    second = pack.open_pack(pack.pack_images(data_path, list_files(data_path))).crops[:pages]
    np.testing.assert_array_equal(second[..., 0], rz.images.read_pages(files[0]))
    assert first.shape == second.shape[1:]
    monkeypatch.setattr(pack.time, "time_ns", lambda: at + 60 * 10**9)
    settled = pack.pack_images(data_path, list_files(data_path))
    key = h5py.File(settled).attrs["key"]
    assert h5py.File(pack.pack_images(data_path, list_files(data_path))).attrs["key"] == key


# Paths in tables cannot leave the folder of the data


@pytest.mark.parametrize("outside", ["../secret.tif", "/etc/passwd", "train/00/../../../secret.tif", "C:\\secret.tif"])
def test_a_manifest_names_no_file_outside(outside, tmp_path):
    data_path = write_drawn_set(tmp_path / "set", n_per_class=4)
    write_stack(tmp_path / "secret.tif", draw_crops(seed=9)[0][:4])
    manifest = pd.read_csv(data_path / "manifest.csv", dtype=str)
    manifest.loc[0, "file"] = outside
    manifest.to_csv(data_path / "manifest.csv", index=False)
    with pytest.raises(InputError, match=r"manifest\.csv"):
        read_dataset(data_path)


@pytest.mark.parametrize("outside", ["../secret", "/etc/passwd", "../set/a"])
def test_a_table_of_labels_names_no_image_outside(outside, tmp_path):
    (tmp_path / "cells").mkdir()
    for name in ("cells/a", "cells/b", "secret"):
        write_stack(tmp_path / f"{name}.tif", draw_crops()[0][:1])
    (tmp_path / "cells" / "labels.csv").write_text(f"Id,Target\na,0\nb,1\n{outside},1\n")
    with pytest.raises(InputError, match=r"labels\.csv"):
        read_dataset(tmp_path / "cells")


def test_a_source_of_spots_is_a_name_and_no_path(drawn_run, tmp_path, capfd):
    write_stack(tmp_path / "a.tif", draw_crops(side_px=64)[0][:1])
    (tmp_path / "spots.csv").write_text("y,x,source\n30,30,../../etc/passwd\n")
    words = [tmp_path / "a.tif", "--load_logs_path", drawn_run, "--pred_save_path", tmp_path / "p.csv"]
    assert predict.main([*map(str, words), "--spots", str(tmp_path / "spots.csv")]) == 2
    assert "--spots: no row's source names" in capfd.readouterr().err


def test_predictions_are_never_written_over_what_they_read(drawn_run, tmp_path, capfd):
    spots = tmp_path / "spots"
    spots.mkdir()
    (spots / "a.csv").write_text("y,x\n5,5\n")
    write_stack(tmp_path / "a.tif", draw_crops(n_per_class=2)[0])
    (tmp_path / "link.csv").symlink_to(spots / "a.csv")
    words = [tmp_path / "a.tif", "--load_logs_path", drawn_run, "--overwrite", "--spots", spots, "--pred_save_path"]
    for output in (spots / "a.csv", tmp_path / "link.csv", tmp_path / "a.tif"):
        before = output.read_bytes()
        assert predict.main([*map(str, words), str(output)]) == 2
        assert str(output) in capfd.readouterr().err
        assert output.read_bytes() == before


def test_a_new_table_never_lies_beside_the_record_of_an_older_one(drawn_run, tmp_path, monkeypatch):
    write_stack(tmp_path / "a.tif", draw_crops(n_per_class=2)[0])
    words = [tmp_path / "a.tif", "--load_logs_path", drawn_run, "--pred_save_path", tmp_path / "p.csv", "--overwrite"]
    assert predict.main([*map(str, words)]) == 0
    assert find_record(tmp_path / "p.csv").is_file()

    def stop(*args, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "write_record", stop)
    assert predict.main([*map(str, words)]) == 130
    assert (tmp_path / "p.csv").is_file() and not find_record(tmp_path / "p.csv").exists()
