"""Calibration against draws whose true probabilities are known."""

import numpy as np
import pytest
import scipy

from resnet_zclass.calibration import (
    apply_temperature,
    choose_sets,
    expected_calibration_error,
    fit_sd_factor,
    fit_set_threshold,
    fit_temperature,
    reliability,
)


def draw(n, n_classes=7, seed=0):
    """Probabilities, and labels that were drawn from them."""
    rng = np.random.default_rng(seed)
    probabilities = scipy.special.softmax(2.5 * rng.standard_normal((n, n_classes)), axis=1)
    return (probabilities.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1), probabilities


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_spoilt_probabilities_is_found(temperature):
    labels, probabilities = draw(20_000)
    spoilt = apply_temperature(probabilities, 1 / temperature)
    found = fit_temperature(labels, spoilt)
    assert found == pytest.approx(temperature, rel=0.03)
    mended = apply_temperature(spoilt, found)
    np.testing.assert_allclose(mended, probabilities, atol=0.02)
    np.testing.assert_array_equal(mended.argmax(axis=1), probabilities.argmax(axis=1))


def test_probabilities_that_are_true_are_calibrated_and_others_are_not():
    labels, probabilities = draw(50_000)
    assert expected_calibration_error(labels, probabilities) < 0.01
    too_sure = apply_temperature(probabilities, 0.4)
    table = reliability(labels, too_sure)
    assert table["n"].sum() == len(labels)
    assert (table["confidence"] > table["accuracy"]).all()
    expected = too_sure.max(axis=1).mean() - (too_sure.argmax(axis=1) == labels).mean()
    assert expected_calibration_error(labels, too_sure) == pytest.approx(expected)


def test_a_confidence_of_one_and_one_on_an_edge_have_their_bins():
    table = reliability(np.array([0, 0]), np.array([[1.0, 0.0], [0.5, 0.5]]), n_bins=2)
    assert table["confidence"].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("coverage", [0.5, 0.9])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sets_hold_the_truth_as_often_as_promised(coverage, temperature):
    """Over many draws of few images: no less than promised, no more than one image beyond, however wrong the model."""
    n, held = 29, []
    for seed in range(300):
        labels, probabilities = draw(n + 100, seed=seed)
        probabilities = apply_temperature(probabilities, temperature)
        threshold = fit_set_threshold(labels[:n], probabilities[:n], coverage)
        held.append((probabilities[n:] >= threshold)[np.arange(100), labels[n:]].mean())
    error = np.std(held) / np.sqrt(len(held))
    assert coverage - 4 * error < np.mean(held) < coverage + 1 / (n + 1) + 4 * error


def test_too_few_images_promise_nothing_and_sets_are_never_empty():
    labels, probabilities = draw(8)
    assert fit_set_threshold(labels, probabilities, 0.9) == 0.0
    assert choose_sets(probabilities, 0.0).all()
    assert (choose_sets(probabilities, 2.0).sum(axis=1) == 1).all()
    assert fit_set_threshold(np.append(labels, 0), np.vstack([probabilities, np.full(7, 1 / 7)]), 0.9) > 0


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_factor_of_deviations_is_found_beside_what_is_there_anyhow(factor):
    rng = np.random.default_rng(0)
    sd = rng.uniform(0.02, 0.3, 20_000)
    error = np.hypot(factor * sd, 0.03) * rng.standard_normal(20_000)
    assert fit_sd_factor(error, sd, floor=0.03) == pytest.approx(factor, rel=0.02)
