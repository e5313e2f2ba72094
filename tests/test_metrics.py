import numpy as np
import pytest
import sklearn.metrics

from resnet_zclass.metrics import (
    classification_metrics,
    confusion_matrix,
    cross_entropy,
    one_hot,
    per_class_metrics,
    z_metrics,
)

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, 300)
PROBABILITIES = RNG.dirichlet(np.ones(5), 300)
PREDICTED = PROBABILITIES.argmax(axis=1)


def test_scores_agree_with_scikit_learn():
    scores = classification_metrics(LABELS, PROBABILITIES)
    assert scores["n"] == 300
    assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(LABELS, PREDICTED))
    assert scores["balanced_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(LABELS, PREDICTED))
    assert scores["loss"] == pytest.approx(sklearn.metrics.log_loss(LABELS, PROBABILITIES))


def test_confusion_and_class_scores_agree_with_scikit_learn():
    confusion = confusion_matrix(LABELS, PREDICTED, 5)
    np.testing.assert_array_equal(confusion, sklearn.metrics.confusion_matrix(LABELS, PREDICTED))
    per_class = per_class_metrics(confusion)
    expected = sklearn.metrics.precision_recall_fscore_support(LABELS, PREDICTED)
    for key, values in zip(("precision", "recall", "f1", "n"), expected, strict=True):
        np.testing.assert_allclose(per_class[key], values)


def test_class_bias_and_spread_are_those_of_the_errors():
    per_class = per_class_metrics(confusion_matrix(LABELS, PREDICTED, 5))
    errors = PREDICTED[LABELS == 2] - 2
    assert per_class["bias_planes"][2] == pytest.approx(errors.mean())
    assert per_class["spread_planes"][2] == pytest.approx(errors.std())
    assert per_class["mae_planes"][2] == pytest.approx(np.abs(errors).mean())


def test_a_class_without_images_scores_nan_and_disturbs_nobody():
    per_class = per_class_metrics(np.array([[2, 0, 0], [0, 0, 0], [1, 0, 3]]))
    assert np.isnan(per_class["recall"][1])
    assert per_class["recall"][[0, 2]].tolist() == [1.0, 0.75]


def test_plane_errors_of_known_predictions():
    scores = z_metrics(np.array([5, 5, 5, 5]), np.array([5, 6, 3, 5]), z_um=0.1 * np.arange(10))
    expected = {
        "within_one": 0.75,
        "mae_planes": 0.75,
        "rmse_planes": np.sqrt(5 / 4),
        "bias_planes": -0.25,
        "mae_um": 0.075,
        "rmse_um": 0.1 * np.sqrt(5 / 4),
        "bias_um": -0.025,
    }
    assert scores == pytest.approx(expected)


def test_um_are_left_out_where_z_is_unknown():
    assert not [key for key in z_metrics(LABELS, PREDICTED) if key.endswith("_um")]


def test_a_certain_mistake_costs_a_finite_loss():
    assert cross_entropy(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(-np.log(1e-7))


def test_the_order_of_images_does_not_matter():
    order = RNG.permutation(300)
    shuffled = classification_metrics(LABELS[order], PROBABILITIES[order])
    assert shuffled == pytest.approx(classification_metrics(LABELS, PROBABILITIES))


def test_soft_targets_are_a_gaussian_over_classes():
    target = one_hot(np.array([3]), 7, soft_labels=0.7)[0]
    assert target.sum() == pytest.approx(1.0)
    assert target[4] / target[3] == pytest.approx(np.exp(-0.5 / 0.49), rel=1e-5)
    assert target[2] == pytest.approx(target[4])
