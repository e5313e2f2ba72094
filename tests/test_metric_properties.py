"""Metrics on any input that Hypothesis can think of, ties and empty classes among it, beside scikit-learn's."""

import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_zclass import metrics

FEW = settings(max_examples=60, deadline=None)


@st.composite
def one_label(draw):
    """Labels and probabilities of 1 to 30 images in 2 to 6 classes, of few different values, so that many are equal."""
    n, k = draw(st.integers(1, 30)), draw(st.integers(2, 6))
    labels = draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    weights = draw(st.lists(st.lists(st.integers(1, 9), min_size=k, max_size=k), min_size=n, max_size=n))
    weights = np.array(weights, np.float64)
    return np.array(labels), weights / weights.sum(axis=1, keepdims=True)


@st.composite
def several_labels(draw):
    """Targets, probabilities in twentieths, and thresholds, of 1 to 20 images and 2 to 5 classes."""
    n, k = draw(st.integers(1, 20)), draw(st.integers(2, 5))

    def table(values):
        return np.array(draw(st.lists(st.lists(values, min_size=k, max_size=k), min_size=n, max_size=n)))

    thresholds = draw(st.lists(st.integers(1, 19), min_size=k, max_size=k))
    return table(st.integers(0, 1)), table(st.integers(0, 20)) / 20, np.array(thresholds) / 20


@FEW
@given(one_label())
def test_one_label(drawn):
    labels, probabilities = drawn
    classes, predicted = range(probabilities.shape[1]), probabilities.argmax(axis=1)
    scores = metrics.classification_metrics(labels, probabilities)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "n": len(labels),
            "loss": sklearn.metrics.log_loss(labels, probabilities, labels=classes),
            "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
            "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, predicted),
            "macro_f1": sklearn.metrics.f1_score(labels, predicted, average="macro"),
        }
    assert scores == pytest.approx(expected)
    confusion = metrics.confusion_matrix(labels, predicted, len(classes))
    np.testing.assert_array_equal(confusion, sklearn.metrics.confusion_matrix(labels, predicted, labels=classes))
    precision, recall, f1, n = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=np.nan
    )
    found = metrics.per_class_metrics(confusion)
    for name, values in {"precision": precision, "recall": recall, "f1": f1, "n": n}.items():
        np.testing.assert_allclose(found[name], values)


@FEW
@given(one_label(), st.floats(0.01, 10))
def test_planes(drawn, step):
    labels, probabilities = drawn
    predicted, z_um = probabilities.argmax(axis=1), np.arange(probabilities.shape[1]) * step
    scores = metrics.z_metrics(labels, predicted, z_um) | metrics.decoded_z_metrics(labels, probabilities, z_um)
    means = {"planes": (labels, predicted), "um": (z_um[labels], z_um[predicted])}
    means["z_um"] = z_um[labels], probabilities @ z_um
    for unit, (truth, found) in means.items():
        assert scores[f"mae_{unit}"] == pytest.approx(sklearn.metrics.mean_absolute_error(truth, found))
        assert scores[f"rmse_{unit}"] == pytest.approx(sklearn.metrics.root_mean_squared_error(truth, found))
        assert scores[f"bias_{unit}"] == pytest.approx(np.mean(found) - np.mean(truth), abs=1e-9)
    near = np.abs(labels[:, None] - np.arange(len(z_um))) <= 1
    assert scores["within_one"] == pytest.approx(near[np.arange(len(labels)), predicted].sum() / len(labels))


@FEW
@given(several_labels())
def test_several_labels(drawn):
    targets, probabilities, thresholds = drawn
    predicted = metrics.decide(probabilities, thresholds)
    scores = metrics.multi_label_metrics(targets, probabilities, thresholds)
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    losses = [sklearn.metrics.log_loss(truth, p, labels=[0, 1]) for truth, p in zip(targets.T, clipped.T, strict=True)]
    expected = {"n": len(targets), "loss": np.mean(losses)}
    expected["accuracy"] = sklearn.metrics.accuracy_score(targets, predicted)
    for average in ("macro", "samples", "micro"):
        expected[f"{average}_f1"] = sklearn.metrics.f1_score(targets, predicted, average=average, zero_division=np.nan)
    assert scores == pytest.approx(expected, nan_ok=True)
    found = metrics.per_class_multi_label(targets, probabilities, thresholds)
    counts = sklearn.metrics.multilabel_confusion_matrix(targets, predicted)
    np.testing.assert_array_equal(
        np.stack([found[name] for name in ("tn", "fp", "fn", "tp")], axis=1), counts.reshape(-1, 4)
    )
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
        targets, predicted, average=None, zero_division=np.nan
    )
    for name, values in {"precision": precision, "recall": recall, "f1": f1}.items():
        np.testing.assert_allclose(found[name], values)


@FEW
@given(several_labels())
def test_no_threshold_is_better_than_the_fitted_one(drawn):
    targets, probabilities, _ = drawn
    fitted = metrics.fit_thresholds(targets, probabilities)
    assert ((fitted > 0) & (fitted < 1)).all()
    for truth, p, threshold in zip(targets.T, probabilities.T, fitted, strict=True):
        if 0 < truth.sum() < len(truth):
            between = (np.arange(20) + 0.5) / 20
            best = max(sklearn.metrics.f1_score(truth, p >= t, zero_division=0) for t in between)
            assert sklearn.metrics.f1_score(truth, p >= threshold, zero_division=0) == pytest.approx(best)


@FEW
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_binomial_test(first, second):
    expected = scipy.stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert metrics.mcnemar(first, second) == pytest.approx(expected)
