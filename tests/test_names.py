"""Names as people give them: blanks, any script, very long, and what means something to shells, tables and globs."""

import json

import numpy as np
import pandas as pd
import pytest
from drawn import draw_crops, write_drawn_set

from resnet_zclass import evaluate, predict, train
from resnet_zclass.files import alone_at, whole_file, whole_folder
from resnet_zclass.images import write_stack
from resnet_zclass.loader import read_dataset

NAMES = {
    "blanks": "my beads  of may",
    "other scripts": "珠子 µm ñ ☃",
    "what shells mean": "a'b $HOME; [x]*?(1)&",
    "what tables mean": 'a,"b";c=1\'',
    "a dash": "-rf",
    "long": "long" * 60,
    "long in bytes": "珠" * 80,
}


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_written_may_have_any_name(name, tmp_path):
    path = tmp_path / f"{NAMES[name]}.txt"
    with whole_file(path) as partial:
        partial.write_text("a")
    with alone_at(tmp_path / "x"), whole_folder(tmp_path / NAMES[name]) as folder:
        (folder / "b").write_text("b")
    assert path.read_text() == "a"
    assert {found.name for found in tmp_path.iterdir()} == {path.name, NAMES[name]}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "a dash"])
def test_sets_and_images_of_any_name_are_read(name, tmp_path):
    data_path = write_drawn_set(tmp_path / NAMES[name] / "set", n_per_class=5)
    (data_path / "manifest.csv").unlink()
    for path in data_path.rglob("drawn.tif"):
        path.rename(path.with_name(f"{NAMES[name]}.tif"))
    data = read_dataset(data_path)
    assert len(data.items) == 15
    assert all(data.items.file.str.endswith(f"{NAMES[name]}.tif"))
    assert read_dataset(data_path).crops.shape == data.crops.shape  # from its pack


def test_a_whole_job_with_names_of_every_kind(tmp_path):
    home = tmp_path / NAMES["blanks"] / NAMES["what shells mean"]
    data_path = write_drawn_set(home / NAMES["other scripts"], n_per_class=15)
    words = ["--data_path", data_path, "--save_logs_path", home, "--run_name", NAMES["other scripts"] + " run"]
    words += ["--model_name", "ResNet8", "--hidden", 8, "--epochs", 1, "--no_evaluate"]
    assert train.main([*map(str, words)]) == 0
    run_path = home / (NAMES["other scripts"] + " run")
    assert evaluate.main(["--load_logs_path", str(run_path)]) == 0
    assert json.loads((run_path / "evaluation" / "metrics.json").read_text())["n"] == 9
    image = home / f"{NAMES['what tables mean']}.tif"
    write_stack(image, draw_crops(n_per_class=2)[0])
    words = [image, "--load_logs_path", run_path, "--pred_save_path", home / f"{NAMES['long'][:200]}.csv"]
    assert predict.main([*map(str, words)]) == 0
    table = pd.read_csv(words[-1])
    assert set(table.file) == {str(image)}
    assert np.isfinite(table.filter(like="p_")).all(axis=None)


@pytest.mark.long
def test_a_hundred_thousand_files(tmp_path):
    for k in range(2):
        folder = tmp_path / "set" / "train" / str(k)
        folder.mkdir(parents=True)
        write_stack(folder / "0.tif", draw_crops(n_per_class=1)[0][:1] + k)
        content = (folder / "0.tif").read_bytes()
        for i in range(1, 50_000):
            (folder / f"{i}.tif").write_bytes(content)
    data = read_dataset(tmp_path / "set")
    assert len(data.items) == 100_000
    assert data.items.label.value_counts().to_dict() == {"0": 50_000, "1": 50_000}
    again = read_dataset(tmp_path / "set")
    assert (again.items.digest == data.items.digest).all()
