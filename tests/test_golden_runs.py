"""Small seeded jobs whose numbers must stay: what was measured once, within what other machines' rounding explains.

Simulation, split, detection and baseline are sums in 64 bits, equal up to rounding. Trainings amplify rounding, so that
their tolerance is what other seeds of the same job differ by.
"""

import json

import numpy as np
import pandas as pd
import pytest

from resnet_zclass import evaluate, make_dataset, simulate, train

SIMULATE = ["--planes", "5", "--z_step_um", "0.4", "--per_class", "60", "--crop_px", "24", "--ceiling_crops", "0"]
SIMULATE += ["--photons", "2000", "4000", "--seed", "3"]
FIELDS = ["--n_fields", "1", "--field_px", "256", "--beads_per_field", "12"]
TRAIN = ["--model_name", "ResNet8", "--hidden", "32", "--batch_size", "16", "--epochs", "12", "--seed", "3"]
TRAIN += ["--no_evaluate"]

GOLDEN = {
    "photons": 2845.791456849568,
    "z_um": [-0.8, -0.4, 0.0, 0.4, 0.8],
    "crlb_um": 0.037275597110604804,
    "beads": 12,
    "split": {"train": 40, "val": 10, "test": 10},
    "baseline_accuracy": 0.8666666666666667,
    "accuracy": 0.8333333333333334,
    "loss": 0.5124726674923074,
    "rmse_um": 0.2250925735484551,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A simulated set and stack, a run that was trained on it and evaluated, and the set of the stack's beads."""
    folder = tmp_path_factory.mktemp("golden")
    paths = ["--data_path", str(folder / "set"), "--source_path", str(folder / "stacks")]
    assert simulate.main([*paths, *SIMULATE, *FIELDS]) == 0
    words = ["--source_path", str(folder / "stacks"), "--data_path", str(folder / "found"), "--planes", "5"]
    assert make_dataset.main([*words, "--crop_px", "24", "--seed", "3"]) == 0
    words = [
        "--data_path",
        str(folder / "set"),
        "--save_logs_path",
        str(folder),
        "--run_name",
        "run",
        "--deterministic",
    ]
    assert train.main([*words, *TRAIN]) == 0
    assert evaluate.main(["--load_logs_path", str(folder / "run")]) == 0
    return folder


@pytest.fixture(scope="module")
def scores(folder):
    return json.loads((folder / "run" / "evaluation" / "metrics.json").read_text())


def test_what_is_simulated(folder):
    manifest = pd.read_csv(folder / "set" / "manifest.csv")
    assert manifest.photons.mean() == pytest.approx(GOLDEN["photons"], rel=1e-9)
    assert manifest.z_um.to_numpy() == pytest.approx(np.repeat(GOLDEN["z_um"], 60), abs=1e-6)


def test_what_is_found(folder):
    manifest = pd.read_csv(folder / "found" / "manifest.csv")
    assert manifest["group"].nunique() == GOLDEN["beads"]
    assert manifest.split.value_counts().to_dict() == GOLDEN["split"]


def test_the_bound_of_physics(scores):
    assert scores["ceiling_accuracy"] == 1
    assert scores["crlb_um"] == pytest.approx(GOLDEN["crlb_um"], rel=1e-4)


def test_the_baseline(scores):
    assert scores["baseline_accuracy"] == pytest.approx(GOLDEN["baseline_accuracy"], abs=1.5 / 60)


@pytest.mark.parametrize("name, tolerance", [("accuracy", 0.1), ("loss", 0.25), ("rmse_um", 0.12)])
def test_the_trained_network(name, tolerance, scores):
    assert scores[name] == pytest.approx(GOLDEN[name], abs=tolerance)
