import tracemalloc

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from resnet_zclass.metrics import (
    classification_metrics,
    confusion_matrix,
    cross_entropy,
    decide,
    decode_z,
    decoded_z_metrics,
    fit_thresholds,
    limit_table,
    mcnemar,
    multi_hot,
    multi_label_metrics,
    one_hot,
    per_class_metrics,
    per_class_multi_label,
    plane_sd,
    z_metrics,
)

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, 300)
PROBABILITIES = RNG.dirichlet(np.ones(5), 300)
PREDICTED = PROBABILITIES.argmax(axis=1)


def draw_several(seed, n=80, k=7):
    """Several labels per image: class 0 without image, class 1 without prediction, 2 with neither; image 0 likewise."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, k)) < 0.3).astype("float32")
    probabilities = np.round(np.clip(0.5 * targets + rng.random((n, k)) * 0.7, 0, 1), 2)  # rounded: with ties
    targets[:, [0, 2]] = 0
    probabilities[:, [1, 2]] *= 0.1
    probabilities[0], targets[1], targets[2] = 0, 0, 0
    targets[0] = 0
    probabilities[2, 3] = 1
    return targets, probabilities


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


def test_a_probability_that_rounding_puts_above_1_costs_nothing():
    assert cross_entropy(np.array([0]), np.array([[1.0001, 0.0]])) == 0.0


def test_the_order_of_images_does_not_matter():
    order = RNG.permutation(300)
    shuffled = classification_metrics(LABELS[order], PROBABILITIES[order])
    assert shuffled == pytest.approx(classification_metrics(LABELS, PROBABILITIES))


def test_targets_take_no_more_memory_than_they_are_large():
    labels = np.random.default_rng(0).integers(0, 39, 20_000)
    tracemalloc.start()
    try:
        targets = one_hot(labels, 39)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * targets.nbytes
    np.testing.assert_array_equal(targets, labels[:, None] == np.arange(39))


def test_soft_targets_are_a_gaussian_over_classes():
    target = one_hot(np.array([3]), 7, soft_labels=0.7)[0]
    assert target.sum() == pytest.approx(1.0)
    assert target[4] / target[3] == pytest.approx(np.exp(-0.5 / 0.49), rel=1e-5)
    assert target[2] == pytest.approx(target[4])


def test_macro_f1_of_one_label_agrees_with_scikit_learn():
    for labels, probabilities in [(LABELS, PROBABILITIES), (np.array([0, 0, 3]), np.eye(6)[[0, 4, 4]])]:
        predicted = probabilities.argmax(axis=1)
        expected = sklearn.metrics.f1_score(labels, predicted, average="macro", zero_division=np.nan)
        assert classification_metrics(labels, probabilities)["macro_f1"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("thresholds", [0.5, np.linspace(0.2, 0.8, 7)])
@pytest.mark.parametrize("seed", range(5))
def test_scores_of_several_labels_agree_with_scikit_learn(seed, thresholds):
    targets, probabilities = draw_several(seed)
    predicted = decide(probabilities, thresholds)
    np.testing.assert_array_equal(predicted, probabilities >= thresholds)
    scores = multi_label_metrics(targets, probabilities, thresholds)
    for average in ("macro", "samples", "micro"):
        expected = sklearn.metrics.f1_score(targets, predicted, average=average, zero_division=np.nan)
        assert scores[f"{average}_f1"] == pytest.approx(expected, abs=1e-12)
    assert scores["n"] == 80
    assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(targets, predicted), abs=1e-12)
    p = np.clip(probabilities, 1e-7, 1 - 1e-7)
    losses = [sklearn.metrics.log_loss(targets[:, k], p[:, k], labels=[0, 1]) for k in range(7)]
    assert scores["loss"] == pytest.approx(np.mean(losses), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_class_scores_of_several_labels_agree_with_scikit_learn(seed):
    targets, probabilities = draw_several(seed)
    per_class = per_class_multi_label(targets, probabilities, np.linspace(0.2, 0.8, 7))
    predicted = probabilities >= np.linspace(0.2, 0.8, 7)
    expected = sklearn.metrics.precision_recall_fscore_support(targets, predicted, zero_division=np.nan)
    for key, values in zip(("precision", "recall", "f1", "n"), expected, strict=True):
        np.testing.assert_allclose(per_class[key], values, atol=1e-12)
    counts = sklearn.metrics.multilabel_confusion_matrix(targets, predicted)
    for key, (i, j) in {"tn": (0, 0), "fp": (0, 1), "fn": (1, 0), "tp": (1, 1)}.items():
        np.testing.assert_array_equal(per_class[key], counts[:, i, j])
    np.testing.assert_array_equal(per_class["predicted"], predicted.sum(axis=0))
    np.testing.assert_array_equal(per_class["threshold"], np.linspace(0.2, 0.8, 7))


def test_no_label_and_no_prediction_anywhere_has_no_f1_and_is_right():
    scores = multi_label_metrics(np.zeros((3, 2)), np.zeros((3, 2)))
    assert scores["accuracy"] == 1.0
    assert all(np.isnan(scores[key]) for key in ("macro_f1", "samples_f1", "micro_f1"))


def f1_at(truth, probabilities, threshold):
    predicted = probabilities >= threshold
    return 2 * (predicted @ truth) / max(1, predicted.sum() + truth.sum())


@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_has_a_better_f1_than_the_fitted_one(seed):
    targets, probabilities = draw_several(seed, n=40)
    thresholds = fit_thresholds(targets, probabilities)
    assert ((thresholds > 0) & (thresholds < 1)).all()
    candidates = np.clip(np.unique([probabilities - 1e-4, probabilities, probabilities + 1e-4]), 1e-9, 1 - 1e-9)
    for k in range(7):
        if targets[:, k].any():
            best = max(f1_at(targets[:, k], probabilities[:, k], threshold) for threshold in candidates)
            assert f1_at(targets[:, k], probabilities[:, k], thresholds[k]) == pytest.approx(best)
    pooled = max(f1_at(targets.ravel(), probabilities.ravel(), threshold) for threshold in candidates)
    assert thresholds[0] == thresholds[2]
    assert f1_at(targets.ravel(), probabilities.ravel(), thresholds[0]) == pytest.approx(pooled)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(4))
def test_fitted_thresholds_are_never_worse_than_a_half_on_their_own_images(seed, dtype):
    targets, probabilities = draw_several(seed)
    targets, probabilities = targets[:, 3:], probabilities[:, 3:].astype(dtype)
    fitted = multi_label_metrics(targets, probabilities, fit_thresholds(targets, probabilities))
    assert fitted["macro_f1"] >= multi_label_metrics(targets, probabilities)["macro_f1"]


def test_a_class_that_can_be_told_apart_gets_a_threshold_that_does():
    targets = np.array([[1], [1], [0], [0]])
    assert fit_thresholds(targets, np.array([[0.3], [0.2], [0.1], [0.0]])) == pytest.approx(0.15)
    assert fit_thresholds(targets, np.array([[1.0], [1.0], [0.9], [0.0]])) == pytest.approx(0.95)
    close = np.array([[np.nextafter(0.5, 1)], [1.0], [0.5], [0.0]])  # no number lies between
    np.testing.assert_array_equal(decide(close, fit_thresholds(targets, close)), targets == 1)


def test_no_threshold_lies_at_1_where_no_number_lies_below_it():
    targets, p = np.array([[1], [0]]), np.array([[1.0], [np.nextafter(1, 0)]])
    assert 0 < fit_thresholds(targets, p)[0] < 1


def test_a_half_is_enough_where_no_threshold_is_given():
    p = np.array([[0.5, np.nextafter(0.5, 0)]])
    assert decide(p).tolist() == [[True, False]]


def test_of_equally_good_thresholds_the_nearest_to_a_half_is_taken():
    p = np.array([[0.95], [0.6], [0.45], [0.05]])  # F1 is 2/3 at 0.775 and 0.025, lower elsewhere
    assert fit_thresholds(np.array([[1], [0], [0], [1]]), p) == pytest.approx(0.775)
    p = np.array([[0.98], [0.94], [0.9], [0.3]])
    assert fit_thresholds(np.array([[1], [0], [0], [1]]), p) == pytest.approx(0.15)
    assert fit_thresholds(np.zeros((4, 2)), np.tile(p, 2)).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("seed", range(4))
def test_a_stretched_scale_of_probabilities_changes_no_best_f1(seed):
    targets, probabilities = draw_several(seed)
    scores = [
        multi_label_metrics(targets[:, 3:], p[:, 3:], fit_thresholds(targets[:, 3:], p[:, 3:]))["macro_f1"]
        for p in (probabilities, probabilities**3, np.sin(probabilities))
    ]
    assert scores == pytest.approx([scores[0]] * 3)


def test_a_class_of_one_image_has_its_own_threshold_and_one_of_all_images_that_of_all_together():
    targets = np.array([[1, 1], [0, 1], [0, 1]])
    thresholds = fit_thresholds(targets, np.array([[0.9, 0.3], [0.1, 0.2], [0.1, 0.2]]))
    assert thresholds == pytest.approx([0.5, 0.15])  # of all together, 0.15 finds all four at no mistake


def test_multi_hot_targets_hold_every_label_once():
    rng = np.random.default_rng(0)
    sets = [rng.choice(9, rng.integers(0, 5), replace=False) for _ in range(50)]
    targets = multi_hot(sets, 9)
    assert targets.dtype == np.float32
    assert [set(np.flatnonzero(row)) for row in targets] == [set(labels) for labels in sets]
    assert multi_hot([], 9).shape == (0, 9)
    assert multi_hot([[0], [0]], 1).tolist() == [[1], [1]]
    for wrong in (-1, 9):
        with pytest.raises(ValueError, match=r"0\.\.8"):
            multi_hot([[0], [wrong]], 9)


def test_scores_leave_their_inputs_as_they_are():
    targets, probabilities = draw_several(0)
    before = targets.copy(), probabilities.copy()
    fit_thresholds(targets, probabilities)
    multi_label_metrics(targets, probabilities)
    np.testing.assert_array_equal(targets, before[0])
    np.testing.assert_array_equal(probabilities, before[1])


def test_the_spread_within_planes_is_that_of_an_analysis_of_variance():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 2000)
    z_um = np.array([0.0, 1.0, 2.0])
    p = rng.uniform(0.3, 0.7, 6000)
    probabilities = np.zeros((6000, 3))
    probabilities[:, 0], probabilities[:, 2] = 1 - p, p  # z is 2 p whatever the plane, of variance 0.16 / 3
    scores = decoded_z_metrics(labels, probabilities, z_um)
    assert scores["spread_z_um"] == pytest.approx(np.sqrt(0.16 / 3 * 4 / 4), rel=0.03)
    assert scores["rmse_z_um"] == pytest.approx(np.sqrt(0.16 / 3 + 2 / 3), rel=0.03)
    assert np.isnan(decoded_z_metrics(np.arange(3), np.eye(3), z_um)["spread_z_um"])


def test_a_plane_of_one_image_adds_nothing_to_the_spread():
    probabilities = np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 0.25, 0.75]])
    scores = decoded_z_metrics(np.array([0, 0, 2]), probabilities, np.array([0.0, 1.0, 2.0]))
    assert scores["spread_z_um"] == pytest.approx(np.sqrt(2 * 0.25**2))  # z of the first two is 0 and 0.5


def test_decoded_z_has_the_mean_and_deviation_of_its_probabilities():
    z_um = np.array([-0.5, 0.25, 2.0, 3.0])
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 50)
    mean, sd = decode_z(3 * probabilities, z_um)  # of any scale
    expected = [scipy.stats.rv_discrete(values=(range(4), p)) for p in probabilities]
    np.testing.assert_allclose(mean, [e.expect(lambda k: z_um[k.astype(int)]) for e in expected])
    variance = [e.expect(lambda k: z_um[k.astype(int)] ** 2) for e in expected] - mean**2
    np.testing.assert_allclose(sd, np.sqrt(variance))
    assert decode_z(np.array([[1 / 3, 1 / 3, 1 / 3]]), np.full(3, 0.1))[1][0] == pytest.approx(0, abs=1e-8)


def test_a_plane_is_as_wide_as_most_steps_in_any_order():
    assert plane_sd(np.array([5.0, 0.5, 0.0, 1.0])) == pytest.approx(0.5 / np.sqrt(12))


@pytest.mark.parametrize("levels", [{}, {"n_levels": 1}, {"n_levels": 4}])
def test_the_table_of_limits_is_that_of_each_plane_and_level(levels):
    rng = np.random.default_rng(0)
    labels, error, bound = rng.choice([1, 4, 5], 60), rng.normal(1, 2, 60), rng.uniform(1, 2, 60)
    brightness = rng.permutation(60) + 100.0
    n_levels = levels.get("n_levels", 3)
    level = (brightness - 100) * n_levels // 60
    table = limit_table(labels, error, bound, brightness, **levels)
    rows = [(k, i) for k in (1, 4, 5) for i in range(n_levels)]
    assert list(zip(table["plane"].tolist(), table["level"].tolist(), strict=True)) == rows
    for i, (k, of_level) in enumerate(rows):
        own = (labels == k) & (level == of_level)
        found = {key: table[key][i] for key in ("n", "photons", "rmse", "bias", "bound")}
        expected = {"n": own.sum(), "photons": brightness[own].mean(), "bias": error[own].mean()}
        expected |= {"rmse": np.sqrt((error[own] ** 2).mean()), "bound": np.sqrt((bound[own] ** 2).mean())}
        assert found == pytest.approx(expected)


def test_a_table_of_limits_of_one_image_or_none_is_no_longer():
    one = limit_table(np.array([3]), np.array([0.5]), np.array([0.1]), np.array([9.0]))
    assert {key: values.tolist() for key, values in one.items()} == {
        "plane": [3], "level": [0], "n": [1], "photons": [9.0], "rmse": [0.5], "bias": [0.5], "bound": [0.1],
    }  # fmt: skip
    none = limit_table(np.zeros(0, int), np.zeros(0), np.zeros(0), np.zeros(0))
    assert {len(values) for values in none.values()} == {0}


@pytest.mark.parametrize(("first", "second"), [(0, 0), (2, 2), (5, 0), (3, 9), (40, 41)])
def test_mcnemar_is_an_exact_binomial_test(first, second):
    expected = scipy.stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)
