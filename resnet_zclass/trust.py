"""How far a run can be trusted: learnt from its split val when it is trained, and checked when it is evaluated."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import resnet_zclass as rz
from resnet_zclass import calibration, metrics
from resnet_zclass.calibration import COVERAGE
from resnet_zclass.files import whole_file
from resnet_zclass.loader import Dataset
from resnet_zclass.pack import Subset
from resnet_zclass.predict import predict_probabilities
from resnet_zclass.predictions import estimate_z
from resnet_zclass.runs import CALIBRATION_FILE, FAMILIAR_FILE, Run

if TYPE_CHECKING:
    import keras


def learn_trust(run_path: Path, model: "keras.Model", data: Dataset, camera_offset: float, seed: int = 0) -> None:
    """Writes into a run what its split val teaches; nothing where there is none, or images have several labels.

    `calibration.json` holds `n` (images of split val), `temperature`, `set_threshold` (for sets of classes that hold
    the true one for `COVERAGE` of the images) and, where z is known, `z_sd_factor` (see `estimate_z`);
    `familiar.npz`, of beads, what they look like (see `unlike`).
    """
    val, train = data.indices("val"), data.indices("train")
    if data.several or not len(val):
        return
    crops, labels = Subset(data.crops, val), data.labels[val]
    probabilities = predict_probabilities(model, crops)
    write_calibration(run_path, data, labels, probabilities)
    if data.is_z:
        familiar = rz.unlike.fit_familiar(Subset(data.crops, train), crops, camera_offset, seed)
        with whole_file(run_path / FAMILIAR_FILE) as partial:
            rz.unlike.save_familiar(partial, familiar)


def write_calibration(run_path: Path, data: Dataset, labels: np.ndarray, probabilities: np.ndarray) -> None:
    """Writes `calibration.json` from class indices `(N,)` and probabilities `(N, K)` of images not trained on."""
    learnt = {
        "n": len(labels),
        "temperature": calibration.fit_temperature(labels, probabilities),
        "set_threshold": calibration.fit_set_threshold(labels, probabilities, COVERAGE),
    }
    z_um = data.classes.z_um.to_numpy(float)
    if data.is_z and not np.isnan(z_um).any():
        mean, sd = metrics.decode_z(probabilities, z_um)
        learnt["z_sd_factor"] = calibration.fit_sd_factor(mean - z_um[labels], sd, metrics.plane_sd(z_um))
    with whole_file(run_path / CALIBRATION_FILE) as partial:
        partial.write_text(json.dumps(learnt, indent=1) + "\n")


def measure_trust(run: Run, data: Dataset, indices: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Whether what the run learnt of itself holds on other images.

    Args:
        run: A finished run.
        data: A set.
        indices: The images, int array `(N,)`.
        probabilities: Their probabilities `(N, K)`.

    Returns:
        `z_sd_ratio`: root mean square of error over stated deviation of z, 1 is right and less is to be expected of
        beads that stand on planes; `n_unlike`: crops that are
        called unlike the training set. Nothing where the run has not learnt it.
    """
    scores: dict[str, float] = {}
    if run.z_um is not None and "z_sd_factor" in (run.calibration or {}):
        z_um, sd_um = estimate_z(run, probabilities)
        scores["z_sd_ratio"] = float(np.sqrt(np.mean(((z_um - run.z_um[data.labels[indices]]) / sd_um) ** 2)))
    if run.familiar is not None:
        scores["n_unlike"] = int((run.familiar.score(Subset(data.crops, indices)) > 1).sum())
    return scores


def measure_calibration(
    labels: np.ndarray, probabilities: np.ndarray, val: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, float]:
    """Whether the probabilities of a split mean what they say, before and after what its set's split val teaches.

    Args:
        labels: True class indices, int array `(N,)`.
        probabilities: Array `(N, K)`.
        val: The same two of split val; None: nothing is fitted.

    Returns:
        `ece`; with `val` also `temperature`, `ece_tempered`, `loss_tempered`, and `set_coverage` and `set_size` (mean
        number of classes) of sets that are to hold the true class for `COVERAGE` of the images.

    >>> sure, wrong = np.array([[0.9, 0.1]] * 4), np.array([0, 0, 0, 1])
    >>> {key: round(value, 3) for key, value in measure_calibration(wrong, sure, (wrong, sure)).items()}
    {'ece': 0.15, 'temperature': 2.0, 'ece_tempered': 0.0, 'loss_tempered': 0.562, 'set_coverage': 1.0, 'set_size': 2.0}
    """
    scores = {"ece": calibration.expected_calibration_error(labels, probabilities)}
    if val is None:
        return scores
    temperature = calibration.fit_temperature(*val)
    tempered = calibration.apply_temperature(probabilities, temperature)
    sets = calibration.choose_sets(probabilities, calibration.fit_set_threshold(*val, COVERAGE))
    return scores | {
        "temperature": temperature,
        "ece_tempered": calibration.expected_calibration_error(labels, tempered),
        "loss_tempered": metrics.cross_entropy(labels, tempered),
        "set_coverage": float(sets[np.arange(len(labels)), labels].mean()),
        "set_size": float(sets.sum(axis=1).mean()),
    }
