"""Runs to hand on: one trained for some epochs on drawn beads, one of several labels that was never trained."""

from pathlib import Path

import numpy as np
from drawn import write_drawn_set
from drawn_labels import CHANNELS, NAMES, write_labelled_folder

from resnet_zclass import models, runs, train
from resnet_zclass.loader import read_dataset
from resnet_zclass.opts import TrainOptions

THRESHOLDS = np.array([0.25, 0.5, 0.125, 0.75])


def train_drawn_run(folder: Path) -> Path:
    """A run of three planes on uint16 crops of 16 x 16 px that is mostly right."""
    data_path = write_drawn_set(folder / "set", n_per_class=30)
    words = ["--model_name", "ResNet8", "--hidden", "16", "--batch_size", "8", "--seed", "1", "--no_evaluate"]
    words += ["--data_path", data_path, "--save_logs_path", folder, "--run_name", "beads", "--epochs", 10]
    assert train.main(list(map(str, words))) == 0
    return folder / "beads"


def write_two_round_set(folder: Path) -> list:
    """Drawn beads, 18 to train on in each of three planes, and random weights of a backbone; words for `train`."""
    data_path, path = write_drawn_set(folder / "set", n_per_class=30), folder / "b.weights.h5"
    models.keras.utils.set_random_seed(0)
    models.build_classifier((16, 16, 1), 3, "ResNet8").get_layer("backbone").save_weights(path)
    return ["--data_path", data_path, "--weights", path, "--save_logs_path", folder]


def write_several_run(folder: Path) -> Path:
    """A run of four labels on uint8 crops of 16 x 16 px and four channels, with thresholds, its weights random."""
    data_path = write_labelled_folder(folder / "cells", side_px=16)
    options = TrainOptions(data_path=str(data_path), channels=CHANNELS, model_name="CNN")
    data = read_dataset(data_path, **runs.choose_reading(options))
    run_path = folder / "several"
    runs.start_run(run_path, options, data)
    runs.write_classes(run_path, data, THRESHOLDS)
    model = models.build_classifier((16, 16, 4), len(NAMES), "CNN", scaling="image", hidden=8, several=True)
    model.save(run_path / runs.MODEL_FILE)
    return run_path
