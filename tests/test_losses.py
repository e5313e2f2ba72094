import numpy as np
import pytest
import scipy
import sklearn.linear_model

from resnet_zclass.backend import keras, tf
from resnet_zclass.errors import InputError
from resnet_zclass.losses import LOSSES, AsymmetricLoss, FewShotLoss, OrdinalLoss, SparseLoss, build_loss, check_loss

RNG = np.random.default_rng(0)
ONE = np.eye(5, dtype="float32")[RNG.integers(0, 5, 20)]
SEVERAL = (RNG.random((20, 5)) < 0.4).astype("float32")
ONE_P = RNG.dirichlet(np.ones(5), 20).astype("float32")
SEVERAL_P = RNG.random((20, 5)).astype("float32")


def per_image(loss, targets, probabilities):
    if isinstance(loss, keras.losses.Loss):
        return np.asarray(loss.call(tf.constant(targets), tf.constant(probabilities)))
    return np.asarray(loss(targets, probabilities))


def p_of_truth(targets, probabilities):
    return np.where(targets == 1, probabilities, 1 - probabilities).astype("float64")


CLOSED_FORMS = {
    ("crossentropy", False): lambda: -np.log((ONE * ONE_P).sum(axis=1)),
    ("sparse", False): lambda: -np.log((ONE * ONE_P).sum(axis=1)),
    ("sparse_categorical_crossentropy", False): lambda: -np.log((ONE * ONE_P).sum(axis=1)),
    ("SparseCategoricalCrossentropy", False): lambda: -np.log((ONE * ONE_P).sum(axis=1)),
    ("focal", False): lambda: -((1 - (ONE * ONE_P).sum(axis=1)) ** 3) * np.log((ONE * ONE_P).sum(axis=1)),
    ("mean_absolute_error", False): lambda: np.abs(ONE - ONE_P).mean(axis=1),
    ("MeanAbsoluteError", False): lambda: np.abs(ONE - ONE_P).mean(axis=1),
    ("emd", False): lambda: ((ONE.cumsum(axis=1) - ONE_P.cumsum(axis=1)) ** 2).sum(axis=1),
    ("cumulative", False): lambda: (
        -np.log(p_of_truth(ONE.cumsum(axis=1)[:, :-1], ONE_P.cumsum(axis=1)[:, :-1].astype("float64"))).sum(axis=1)
    ),
    ("gaussian", False): lambda: (
        -scipy.stats.norm.logpdf(
            ONE @ np.arange(5),
            ONE_P @ np.arange(5),
            np.sqrt(ONE_P @ np.arange(5) ** 2 - (ONE_P @ np.arange(5)) ** 2 + 1 / 12),
        )
        - np.log(2 * np.pi) / 2
    ),
    ("crossentropy", True): lambda: -np.log(p_of_truth(SEVERAL, SEVERAL_P)).mean(axis=1),
    ("focal", True): lambda: (
        -((1 - p_of_truth(SEVERAL, SEVERAL_P)) ** 3) * np.log(p_of_truth(SEVERAL, SEVERAL_P))
    ).mean(axis=1),
    ("asymmetric", True): lambda: np.where(
        SEVERAL == 1,
        -(1 - SEVERAL_P) * np.log(SEVERAL_P),
        -(np.maximum(SEVERAL_P - 0.05, 0) ** 4) * np.log(1 - np.maximum(SEVERAL_P - 0.05, 0)),
    ).mean(axis=1),
    ("mse", True): lambda: ((SEVERAL - SEVERAL_P) ** 2).mean(axis=1),
}


@pytest.mark.parametrize(("name", "several"), CLOSED_FORMS)
def test_losses_of_images_have_their_closed_form(name, several):
    loss = build_loss(name, several, focal_gamma=3.0)
    targets, probabilities = (SEVERAL, SEVERAL_P) if several else (ONE, ONE_P)
    np.testing.assert_allclose(per_image(loss, targets, probabilities), CLOSED_FORMS[name, several](), rtol=2e-5)


def test_every_named_loss_has_a_closed_form_here():
    fitting = {(name, several) for name in LOSSES for several in (False, True) if LOSSES[name][several]}
    assert fitting <= set(CLOSED_FORMS)


@pytest.mark.parametrize("several", [False, True])
def test_a_focal_loss_of_gamma_0_is_the_crossentropy(several):
    targets, probabilities = (SEVERAL, SEVERAL_P) if several else (ONE, ONE_P)
    focal, plain = build_loss("focal", several, focal_gamma=0.0), build_loss("crossentropy", several)
    np.testing.assert_allclose(focal(targets, probabilities), plain(targets, probabilities), rtol=1e-5)


@pytest.mark.parametrize("extreme", [False, True])
def test_the_asymmetric_loss_without_its_asymmetry_is_that_of_keras(extreme):
    p = np.round(SEVERAL_P) if extreme else SEVERAL_P
    plain = AsymmetricLoss(gamma_neg=0, gamma_pos=0, margin=0)
    np.testing.assert_allclose(per_image(plain, SEVERAL, p), keras.losses.binary_crossentropy(SEVERAL, p), rtol=1e-5)
    focal = AsymmetricLoss(gamma_neg=2.5, gamma_pos=2.5, margin=0)
    expected = keras.losses.binary_focal_crossentropy(SEVERAL, p, gamma=2.5)
    np.testing.assert_allclose(per_image(focal, SEVERAL, p), expected, rtol=1e-4, atol=1e-12)


def test_easy_negatives_below_the_margin_cost_nothing():
    p = np.array([[0.0, 0.01, 0.0499]], "float32")
    assert float(AsymmetricLoss()(np.zeros_like(p), p)) == 0.0
    assert float(AsymmetricLoss()(np.zeros_like(p), p + 0.01)) > 0.0


@pytest.mark.parametrize("gammas", [(4, 1), (0, 0), (0.5, 0.5), (2, 2)])
@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_the_asymmetric_loss_has_finite_slopes_everywhere(gammas, margin):
    p = tf.Variable([[0.0, 1.0, 0.05, 0.5, 1e-9]] * 2)
    targets = np.array([[0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], "float32")
    with tf.GradientTape() as tape:
        loss = AsymmetricLoss(*gammas, margin=margin)(targets, p)
    assert np.isfinite(float(loss))
    slopes = tape.gradient(loss, p).numpy()
    assert np.isfinite(slopes).all()
    assert slopes[0, 3] > 0 > slopes[1, 3]


@pytest.mark.parametrize(("name", "several"), [(name, several) for name, several in CLOSED_FORMS if name in LOSSES])
def test_an_image_of_weight_0_counts_nothing_and_one_of_2_twice(name, several):
    targets, probabilities = (SEVERAL, SEVERAL_P) if several else (ONE, ONE_P)
    loss, weights = build_loss(name, several), np.tile([0.0, 1.0, 2.0, 0.5], 5).astype("float32")
    expected = (weights * per_image(loss, targets, probabilities)).mean()
    assert float(loss(targets, probabilities, sample_weight=weights)) == pytest.approx(expected, rel=1e-5)


def test_mixed_targets_cost_their_share_of_each():
    mixed = np.full((1, 2), 0.3, "float32")
    p = np.array([[0.4, 0.4]], "float32")
    parts = [float(AsymmetricLoss()(np.full((1, 2), t, "float32"), p)) for t in (0.0, 1.0)]
    assert float(AsymmetricLoss()(mixed, p)) == pytest.approx(0.7 * parts[0] + 0.3 * parts[1], rel=1e-5)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_model_learns_by_every_loss(name, several):
    if LOSSES[name][several] is None:
        return
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(5, "sigmoid" if several else "softmax")])
    model.compile("adam", build_loss(name, several))
    x, y = (SEVERAL, SEVERAL) if several else (ONE, ONE)
    losses = model.fit(x, y, epochs=5, verbose=0, sample_weight=np.ones(20)).history["loss"]
    assert losses[-1] < losses[0]


def test_the_few_shot_loss_is_that_of_a_ridge_regression():
    rng = np.random.default_rng(0)
    z, features = rng.uniform(-1, 1, (2 * 30, 1)).astype("float32"), rng.standard_normal((2 * 30, 7)).astype("float32")
    loss = FewShotLoss(n_support=20, n_crops=30, n_bumps=9, width=0.2, ridge=0.5, reduction=None)
    codes = np.exp(-0.5 * ((z - np.linspace(-1, 1, 9)) / 0.2) ** 2).reshape(2, 30, 9)
    codes = codes - codes[:, :20].mean(axis=1, keepdims=True)
    wrong = []
    for code, some in zip(codes, features.reshape(2, 30, 7), strict=True):
        ridge = sklearn.linear_model.Ridge(alpha=0.5).fit(some[:20], code[:20])
        wrong.append(((ridge.predict(some[20:]) - code[20:]) ** 2).mean(axis=1))
    expected = np.concatenate(wrong) / (codes[:, 20:] ** 2).mean()
    np.testing.assert_allclose(loss(z, features), expected, rtol=1e-4)


def test_the_few_shot_loss_leads_to_features_that_tell_z():
    rng = np.random.default_rng(0)
    z = rng.uniform(-1, 1, (64 * 20, 1)).astype("float32")
    x = np.concatenate([np.sin(3 * z), np.cos(3 * z), rng.standard_normal((len(z), 6))], axis=1).astype("float32")
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(16)])
    model.compile(keras.optimizers.Adam(1e-2), FewShotLoss(n_support=32, n_crops=64))
    losses = model.fit(x, z, batch_size=256, shuffle=False, epochs=25, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]


EXTREME_P = np.clip(ONE_P**6, 1e-4, None) / np.clip(ONE_P**6, 1e-4, None).sum(axis=1, keepdims=True)
EXTREME_SEVERAL_P = np.clip((SEVERAL_P - 0.5) * 3 + 0.5, 1e-4, 1 - 1e-4)


def check_slopes(loss, targets, probabilities, step=1e-7):
    """That the slopes of a loss are its central differences, in 64 bits."""
    targets, p = tf.constant(targets, tf.float64), tf.Variable(probabilities, dtype=tf.float64)
    call = loss.call if isinstance(loss, keras.losses.Loss) else loss
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(call(targets, p))
    slopes, (n, k) = tape.gradient(value, p).numpy(), p.shape
    assert slopes.dtype == np.float64
    for column in range(k):
        off = np.zeros((n, k))
        off[:, column] = step
        above, below = (np.asarray(call(targets, p + sign * off)) for sign in (1, -1))
        np.testing.assert_allclose(slopes[:, column], (above - below) / (2 * step), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize(
    ("name", "several"), [key for key in CLOSED_FORMS if "absolute" not in key[0].lower().replace("_", "")]
)
def test_slopes_are_finite_differences(name, several, extreme):
    ordinary, extremes = (SEVERAL_P, EXTREME_SEVERAL_P) if several else (ONE_P, EXTREME_P)
    check_slopes(
        build_loss(name, several, focal_gamma=3), SEVERAL if several else ONE, extremes if extreme else ordinary
    )


def test_the_few_shot_loss_has_slopes_through_its_solution():
    rng = np.random.default_rng(1)
    z, features = rng.uniform(-1, 1, (24, 1)).astype("float32"), rng.standard_normal((24, 3)).astype("float32")
    loss = FewShotLoss(n_support=8, n_crops=12, n_bumps=5, width=0.4, ridge=0.5, reduction="sum")
    variable = tf.Variable(features)
    with tf.GradientTape() as tape:
        value = loss(z, variable)
    slopes, differences = tape.gradient(value, variable).numpy(), np.empty_like(features)
    for place in np.ndindex(*features.shape):
        off = np.zeros_like(features)
        off[place] = 1e-2  # 32 bits allow no less
        differences[place] = (float(loss(z, features + off)) - float(loss(z, features - off))) / 2e-2
    assert np.abs(slopes[:8]).max() > 0.01  # of the support, which only the solution knows
    np.testing.assert_allclose(slopes, differences, atol=5e-3 * np.abs(slopes).max())


def test_wrong_slopes_would_be_seen():
    @tf.custom_gradient
    def wrong(p):
        return tf.reduce_sum(p**2, axis=1), lambda up: up[:, None] * p

    with pytest.raises(AssertionError):
        check_slopes(lambda _, p: wrong(p), ONE, ONE_P)


@pytest.mark.parametrize(
    "loss",
    [AsymmetricLoss(3, 2, 0.1), OrdinalLoss("gaussian"), SparseLoss("SparseCategoricalCrossentropy", reduction="sum")],
)
def test_a_loss_is_made_again_from_its_configuration(loss):
    again = type(loss).from_config(loss.get_config())
    assert again.get_config() == loss.get_config()
    assert float(again(ONE, ONE_P)) == float(loss(ONE, ONE_P))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: build_loss("asymmetric", several=False), "--loss asymmetric is for several labels per image; "),
        (lambda: build_loss("sparse", several=True), "--loss sparse is for one label per image; "),
        (lambda: build_loss("SparseCategoricalCrossentropy", several=True), "one label"),
        (lambda: build_loss("crossentropi", several=True), "crossentropy.*asymmetric.*categorical_hinge"),
        (lambda: build_loss("sparse_nothing", several=False), "no such loss"),
        (lambda: build_loss("", several=False), "no such loss"),
        (lambda: build_loss("CTC", several=False), "--loss CTC"),
        (lambda: build_loss("focal", several=False, focal_gamma=-1), "--focal_gamma"),
        (lambda: check_loss("emd", several=True), "--loss emd is for one label per image"),
        (lambda: check_loss("gaussian", several=False, ordered=False), "--loss gaussian is for z planes"),
        (lambda: check_loss("sparse", False, mixes=True), "--mixup.*--loss crossentropy, or --mixup 0"),
        (lambda: check_loss("sparse_categorical_crossentropy", False, soft=True), "--soft_labels"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused_by_name(call, named):
    with pytest.raises(InputError, match=named):
        call()


@pytest.mark.parametrize("name", ["crossentropy", "focal", "asymmetric", "mse"])
def test_a_loss_that_takes_any_target_passes(name):
    assert check_loss(name, several=True, mixes=True, soft=True) is None
    mixed, p = np.array([[0.3, 0.7], [1.0, 0.2]], "float32"), np.array([[0.4, 0.6], [0.9, 0.1]], "float32")
    assert np.isfinite(np.mean(build_loss(name, several=True)(mixed, p)))
