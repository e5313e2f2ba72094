"""The package for bioimage.io: what is in it, that it passes the validator's test, and that a wrong one does not."""

import contextlib
import io
import os
import shutil
import socket
import zipfile

import numpy as np
import pytest
from PIL import Image
from ruyaml import YAML

from resnet_zclass import bioimageio_package, engines, export
from resnet_zclass.runs import read_run

ABOUT = ["--author", "Jane Doe; Institute of Optics", "John Roe", "--license", "CC-BY-4.0"]
ABOUT += ["--cite", "Roe 2020; 10.1109/CVPR.2016.90", "A page; https://no-such-host.invalid/page"]


@pytest.fixture(scope="module")
def no_network():
    """Makes every connection fail, loudly."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*words):
            raise AssertionError(f"a connection was tried: {words}")

        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="module")
def package(made):
    return made[0]


@pytest.fixture(scope="module")
def made(drawn_run, tmp_path_factory, no_network):
    """Path of a package and what was said when it was made."""
    path = tmp_path_factory.mktemp("package") / "beads.bioimageio.zip"
    words = ["--load_logs_path", drawn_run, "--format", "bioimageio", "--save_path", path, *ABOUT]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert export.main(list(map(str, words))) == 0
    return path, said.getvalue().splitlines()


def read_yaml(path):
    with zipfile.ZipFile(path) as file:
        return YAML(typ="safe").load(file.read("rdf.yaml").decode())


@pytest.mark.slow
def test_the_package_passes_format_and_test_run_with_both_weights(made):
    lines = made[1][:-1]
    for weights in ("keras_v3", "onnx"):
        assert f"bioimageio: passed: Reproduce test outputs from test inputs ({weights})" in lines
    assert all(line.startswith("bioimageio: passed: ") for line in lines)
    assert made[1][-1].startswith(f"bioimageio: {made[0]}, ")


def test_the_description_says_who_what_and_how(package):
    facts = read_yaml(package)
    assert facts["format_version"].startswith("0.5.")
    assert facts["license"] == "CC-BY-4.0"
    assert [author["name"] for author in facts["authors"]] == ["Jane Doe", "John Roe"]
    assert facts["authors"][0]["affiliation"] == "Institute of Optics"
    assert [entry.get("doi") or entry.get("url") for entry in facts["cite"]] == [
        "10.1109/CVPR.2016.90",
        "https://no-such-host.invalid/page",
    ]
    (crop,), (output,) = facts["inputs"], facts["outputs"]
    assert [(axis["type"], axis.get("size")) for axis in crop["axes"][:3]] == [
        ("batch", None),
        ("space", 16),
        ("space", 16),
    ]
    assert crop["data"] == {"type": "uint16", "range": [0.0, 65535.0]}
    assert output["axes"][1]["channel_names"] == ["00", "01", "02"]
    assert output["data"]["range"] == [0.0, 1.0]
    assert facts["config"]["resnet_zclass"]["class_names"] == ["00", "01", "02"]


def test_test_tensors_are_raw_crops_and_what_keras_says_of_them(package, drawn_run):
    run = read_run(drawn_run)
    with zipfile.ZipFile(package) as file:
        crops, expected = (np.load(file.open(f"test_{end}.npy")) for end in ("input", "output"))
        assert file.read("model.keras") == (drawn_run / "model.keras").read_bytes()
        cover = Image.open(file.open("cover.png"))
        text = file.read("README.md").decode()
    assert (crops.dtype, crops.shape) == (np.uint16, (4, 16, 16, 1))
    assert all((run.read_own_set().crops == crop).all(axis=(1, 2, 3)).any() for crop in crops)
    np.testing.assert_allclose(run.load_model().predict(crops.astype(np.float32), verbose=0), expected, atol=1e-5)
    np.testing.assert_allclose(engines.load_engine("bioimageio", package)(crops), expected, atol=1e-4)
    assert cover.size == (1000, 500)
    assert "`02: z = 0.2 um`" in text
    assert engines.read_metadata("bioimageio", package)["class_names"] == ["00", "01", "02"]


def test_a_package_that_fails_its_test_is_not_left(drawn_run, tmp_path, monkeypatch, capsys):
    write_parts = bioimageio_package._write_parts

    def write_wrong(classifier, folder, *rest):
        write_parts(classifier, folder, *rest)
        np.save(folder / "test_output.npy", np.full((4, 3), 1 / 3, np.float32))

    monkeypatch.setattr(bioimageio_package, "_write_parts", write_wrong)
    run_path = shutil.copytree(drawn_run, tmp_path / "beads")
    assert export.main(["--load_logs_path", str(run_path), "--format", "bioimageio", *ABOUT]) == 2
    assert "bioimage.io package is" in capsys.readouterr().err
    assert not (run_path / "export").exists()


def test_several_labels_go_in_with_channels_and_thresholds(several_run, tmp_path, no_network, capfd):
    path, words = tmp_path / "cells.zip", ["--load_logs_path", several_run, "--format", "bioimageio", *ABOUT]
    (tmp_path / "own.md").write_text("# What these cells are\n")
    words += ["--save_path", path, "--title", "Cells of mine", "--documentation", tmp_path / "own.md"]
    environment = dict(os.environ)
    assert export.main(list(map(str, words))) == 0
    assert capfd.readouterr().err == ""
    assert dict(os.environ) == environment  # the validator likes to set the backend of Keras
    facts = read_yaml(path)
    assert facts["name"] == "Cells of mine"
    assert facts["inputs"][0]["axes"][3]["channel_names"] == ["red", "green", "blue", "yellow"]
    assert facts["config"]["resnet_zclass"]["thresholds"] == [0.25, 0.5, 0.125, 0.75]
    with zipfile.ZipFile(path) as file:
        assert file.read("README.md") == b"# What these cells are\n"


BAD = {
    "licence": (["--license", "my own"], "--license must be an SPDX identifier"),
    "title": (["--title", "a"], "--title"),
    "citation": (["--cite", "only text"], "--cite"),
    "author": (["--author", "; Institute"], "--author"),
    "many parts": (["--author", "A; B; C; D"], "--author"),
    "no documentation": (["--documentation", "nowhere.md"], "nowhere.md"),
    "orcid": (["--author", "A B; C; 1234"], "orcid"),
    "doi": (["--cite", "text; not-a-doi"], "doi"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_texts_are_one_line_and_leave_nothing(case, drawn_run, tmp_path, capsys):
    words, named = BAD[case]
    about = {flag: ABOUT[i + 1 :] for i, flag in enumerate(ABOUT) if flag.startswith("--")}
    base = ["--load_logs_path", drawn_run, "--format", "bioimageio", "--save_path", tmp_path / "new" / "a.zip"]
    base += [] if words[0] == "--author" else ["--author", about["--author"][0]]
    base += [] if words[0] == "--license" else ["--license", "MIT"]
    assert export.main([*map(str, base), *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert named in line
    assert list(tmp_path.iterdir()) == []
