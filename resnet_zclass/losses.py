"""Losses by name, for one label or several per image: Keras' own, and the few that it lacks.

All take targets and probabilities `(N, K)` and give one value per image, `(N,)`, before Keras averages them, so that
weights of images work. (Keras' `dice` and `tversky` give one value per batch; weights of images scale it as a whole.)
"""

import difflib
from collections.abc import Callable

from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError

ops = keras.ops


class AsymmetricLoss(keras.losses.Loss):
    """Binary cross-entropy that forgives easy negatives: for several labels, most of which an image does not have.

    A label that is there costs `-(1 - p)^gamma_pos log(p)`; one that is not costs `-q^gamma_neg log(1 - q)` with
    `q = max(p - margin, 0)`: nothing at all up to the margin. The mean over classes is taken, as in Keras'
    `binary_crossentropy`, where the authors' code has the sum; the defaults are those of that code. Ridnik et al.,
    Asymmetric Loss For Multi-Label Classification, ICCV 2021, equations 4 to 7.

    Args:
        gamma_neg: How much negatives that are nearly right count less; >= 0.
        gamma_pos: The same for positives.
        margin: Probability in 0..1 that is taken off negatives.
        reduction: As of every Keras loss.
        name: Name of the loss.

    >>> loss = AsymmetricLoss(gamma_neg=1, gamma_pos=0, margin=0.1, reduction=None)
    >>> targets, p = ops.array([[1.0, 0.0], [0.0, 0.0]]), ops.array([[0.5, 0.1], [0.6, 0.05]])
    >>> [round(float(value), 4) for value in loss(targets, p)]  # log(2) / 2, and 0.5 log(2) / 2
    [0.3466, 0.1733]
    """

    def __init__(
        self,
        gamma_neg: float = 4.0,
        gamma_pos: float = 1.0,
        margin: float = 0.05,
        reduction: str | None = "sum_over_batch_size",
        name: str = "asymmetric",
    ):
        super().__init__(name=name, reduction=reduction)
        self.gamma_neg, self.gamma_pos, self.margin = gamma_neg, gamma_pos, margin

    def call(self, y_true, y_pred):
        """Returns the loss of every image, `(N,)`, from targets in 0..1 and probabilities, both `(N, K)`."""
        smallest = keras.config.epsilon()
        p = ops.clip(y_pred, smallest, 1 - smallest)
        q = ops.maximum(p - self.margin, 0.0)
        positive = ops.power(1 - p, self.gamma_pos) * ops.log(p)
        # The power is kept off 0, where its slope may be infinite; log(1 - q) still makes the cost exactly 0 there.
        negative = ops.power(ops.maximum(q, smallest), self.gamma_neg) * ops.log(1 - q)
        return -ops.mean(y_true * positive + (1 - y_true) * negative, axis=-1)

    def get_config(self) -> dict:
        """Returns what makes the same loss again."""
        own = {"gamma_neg": self.gamma_neg, "gamma_pos": self.gamma_pos, "margin": self.margin}
        return {**super().get_config(), **own}


class FewShotLoss(keras.losses.Loss):
    """How badly z is told by features of a backbone, with as good a linear readout as a few crops allow.

    The batch is made of episodes. The first crops of each are its support: a ridge regression from their features to
    z, in a code of Gaussian bumps, is solved in closed form. The loss is its squared error on the other crops of the
    episode, 1 if the code were always predicted by its mean. The gradient goes through the solution, so that features
    are learnt from which few crops suffice. Bertinetto et al., Meta-learning with differentiable closed-form solvers,
    ICLR 2019.

    Args:
        n_support: Crops in the support of an episode.
        n_crops: Crops in an episode, support first; a batch holds a multiple of it.
        n_bumps: Bumps of the code, evenly spaced over -1..1.
        width: Their standard deviation.
        ridge: Penalty of the regression, on features that are centred and not scaled.
        reduction: As of every Keras loss.
        name: Name of the loss.

    >>> import numpy as np
    >>> z = np.linspace(-1, 1, 64)[:, None]
    >>> bumps = np.exp(-0.5 * ((z - np.linspace(-1, 1, 25)) / 0.08) ** 2)
    >>> loss = FewShotLoss(n_support=32, n_crops=64, ridge=1e-4)
    >>> order = np.random.default_rng(0).permutation(64)
    >>> [bool(loss(z[order], features[order]) < 0.01) for features in (bumps, np.zeros((64, 25)))]
    [True, False]
    """

    def __init__(
        self,
        n_support: int,
        n_crops: int,
        n_bumps: int = 25,
        width: float = 0.08,
        ridge: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "few_shot",
    ):
        super().__init__(name=name, reduction=reduction)
        self.n_support, self.n_crops = n_support, n_crops
        self.n_bumps, self.width, self.ridge = n_bumps, width, ridge

    def call(self, y_true, y_pred):
        """Returns the loss of every query, from z `(N, 1)` in -1..1 and features `(N, F)`."""
        bumps = ops.linspace(-1.0, 1.0, self.n_bumps)
        code = ops.exp(-0.5 * ops.square((ops.cast(y_true, "float32") - bumps) / self.width))
        features = ops.reshape(ops.cast(y_pred, "float32"), (-1, self.n_crops, y_pred.shape[-1]))
        code = ops.reshape(code, (-1, self.n_crops, self.n_bumps))
        code = code - ops.mean(code[:, : self.n_support], axis=1, keepdims=True)
        features = features - ops.mean(features[:, : self.n_support], axis=1, keepdims=True)
        support = features[:, : self.n_support]
        transposed = ops.transpose(support, (0, 2, 1))
        penalised = transposed @ support + self.ridge * ops.eye(features.shape[-1])
        readout = ops.solve(penalised, transposed @ code[:, : self.n_support])
        wrong = features[:, self.n_support :] @ readout - code[:, self.n_support :]
        spread = ops.mean(ops.square(code[:, self.n_support :]))
        return ops.reshape(ops.mean(ops.square(wrong), axis=-1) / spread, (-1,))

    def get_config(self) -> dict:
        """Returns what makes the same loss again."""
        names = ("n_support", "n_crops", "n_bumps", "width", "ridge")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def emd_loss(y_true: "keras.KerasTensor", y_pred: "keras.KerasTensor") -> "keras.KerasTensor":
    """Squared earth mover's distance of ordered classes, `(N,)`: a sure prediction d planes off costs d.

    Squared differences of the cumulative probabilities are summed over the classes. Hou, Yu & Samaras, Squared Earth
    Mover's Distance-based Loss for Training Deep Neural Networks, arXiv:1611.05916, 2016.

    Args:
        y_true: Targets `(N, K)` that sum to 1, classes in their order.
        y_pred: Probabilities `(N, K)`.

    >>> emd_loss(ops.one_hot([0, 1, 2, 3], 4), ops.one_hot([0, 2, 2, 0], 4)).numpy().tolist()
    [0.0, 1.0, 0.0, 3.0]
    """
    return ops.sum(ops.square(ops.cumsum(y_pred, axis=-1) - ops.cumsum(y_true, axis=-1)), axis=-1)


def cumulative_loss(y_true, y_pred):
    """Cross-entropies of "it lies above plane k", summed over k, `(N,)`: K - 1 yes-or-no questions instead of one of K.

    Each is answered by the same probabilities, so the answers never contradict each other. Frank & Hall, A Simple
    Approach to Ordinal Classification, ECML 2001. Arguments as of `emd_loss`.

    >>> round(float(cumulative_loss(ops.eye(3)[:1], ops.array([[0.5, 0.25, 0.25]]))[0]), 4)  # log(2) - log(0.75)
    0.9808
    """
    smallest = keras.config.epsilon()
    below = ops.clip(ops.cumsum(y_pred, axis=-1)[:, :-1], smallest, 1 - smallest)
    truth = ops.cumsum(y_true, axis=-1)[:, :-1]
    return -ops.sum(truth * ops.log(below) + (1 - truth) * ops.log(1 - below), axis=-1)


def gaussian_loss(y_true, y_pred):
    """Negative log-likelihood of the plane under a Gaussian with mean and variance of the probabilities, `(N,)`.

    So z is learnt as a number with an error of its own (heteroscedastic regression) by the head of a classifier. A
    twelfth is added to the variance, that of a plane's own width. Up to a constant. Kendall & Gal, What Uncertainties
    Do We Need in Bayesian Deep Learning for Computer Vision?, NeurIPS 2017. Arguments as of `emd_loss`.

    >>> round(float(gaussian_loss(ops.eye(3)[:1], ops.array([[0.5, 0.0, 0.5]]))[0]), 4)  # (1 / v + log(v)) / 2
    0.5016
    """
    planes = ops.arange(y_pred.shape[-1], dtype=y_pred.dtype)
    mean = ops.sum(y_pred * planes, axis=-1, keepdims=True)
    variance = ops.sum(y_pred * ops.square(planes - mean), axis=-1) + 1 / 12
    truth = ops.sum(y_true * planes, axis=-1)
    return (ops.square(truth - mean[:, 0]) / variance + ops.log(variance)) / 2


# Of planes, which are classes in an order.
ORDINAL = {"emd": emd_loss, "cumulative": cumulative_loss, "gaussian": gaussian_loss}


class OrdinalLoss(keras.losses.Loss):
    """One of the losses of planes.

    Args:
        loss: Its name in `ORDINAL`.
        reduction: As of every Keras loss.
        name: Name of the loss.

    >>> float(OrdinalLoss("emd")(ops.one_hot([0, 3], 4), ops.one_hot([0, 0], 4)))
    1.5
    """

    def __init__(self, loss: str, reduction: str | None = "sum_over_batch_size", name: str = "ordinal"):
        super().__init__(name=name, reduction=reduction)
        self.loss = loss

    def call(self, y_true, y_pred):
        """Returns the loss of every image, `(N,)`, from targets and probabilities, both `(N, K)`."""
        return ORDINAL[self.loss](y_true, y_pred)

    def get_config(self) -> dict:
        """Returns what makes the same loss again."""
        return {**super().get_config(), "loss": self.loss}


class SparseLoss(keras.losses.Loss):
    """One of Keras' sparse losses, fed with one-hot targets `(N, K)`, of which it takes the largest.

    Args:
        loss: Its name in `keras.losses`.
        reduction: As of every Keras loss.
        name: Name of the loss.

    >>> round(float(SparseLoss()(ops.array([[0.0, 1.0]]), ops.array([[0.5, 0.5]]))), 4)
    0.6931
    """

    def __init__(
        self,
        loss: str = "sparse_categorical_crossentropy",
        reduction: str | None = "sum_over_batch_size",
        name: str = "sparse",
    ):
        super().__init__(name=name, reduction=reduction)
        self.loss = loss
        found = keras.losses.get(loss)
        self._per_image = found.call if isinstance(found, keras.losses.Loss) else found

    def call(self, y_true, y_pred):
        """Returns the loss of every image, `(N,)`."""
        return self._per_image(ops.argmax(y_true, axis=-1), y_pred)

    def get_config(self) -> dict:
        """Returns what makes the same loss again."""
        return {**super().get_config(), "loss": self.loss}


# For one label, for several; None where it does not fit. Each is called with the gamma of the focal loss.
# Keras' alpha of 0.25 would only divide the focal loss of one label by four; 1 leaves plain cross-entropy at gamma 0.
LOSSES: dict[str, tuple[Callable | None, Callable | None]] = {
    "crossentropy": (
        lambda gamma: keras.losses.CategoricalCrossentropy(),
        lambda gamma: keras.losses.BinaryCrossentropy(),
    ),
    "focal": (
        lambda gamma: keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=gamma),
        lambda gamma: keras.losses.BinaryFocalCrossentropy(apply_class_balancing=False, gamma=gamma),
    ),
    "asymmetric": (None, lambda gamma: AsymmetricLoss()),
    "sparse": (lambda gamma: SparseLoss(), None),
    **{name: (lambda gamma, name=name: OrdinalLoss(name), None) for name in ORDINAL},
}
UNFIT = ("circle", "ctc")  # of keras.losses: for embeddings and for sequences, not for probabilities of classes


def build_loss(name: str, several: bool, focal_gamma: float = 2.0) -> keras.losses.Loss | Callable:
    """Returns a loss by its name, ready for `compile`.

    Args:
        name: `crossentropy` (Keras' categorical or binary), `focal` (Lin et al., Focal Loss for Dense Object
            Detection, ICCV 2017; alpha is 1, not Keras' 0.25, and classes are not balanced, so that with gamma 0 it
            is the cross-entropy), `asymmetric` (several labels only; see `AsymmetricLoss`), `sparse` (one label only;
            see `SparseLoss`), for planes those of `ORDINAL`, or another name of `keras.losses`, such as
            `categorical_hinge` or `CategoricalHinge`.
        several: Whether an image may have several labels.
        focal_gamma: How much `focal` turns to images that are still wrong; >= 0.

    Raises:
        InputError: If there is no such loss, it does not fit the number of labels, or the gamma is negative.

    >>> build_loss("focal", several=True).name, build_loss("mae", several=False).__name__
    ('binary_focal_crossentropy', 'mean_absolute_error')
    """
    check_loss(name, several)
    if focal_gamma < 0:
        raise InputError(f"--focal_gamma must be 0 or more. Received: {focal_gamma}.")
    if name in LOSSES:
        return LOSSES[name][several](focal_gamma)
    return SparseLoss(name) if _is_sparse(name) else keras.losses.get(name)


def check_loss(name: str, several: bool, mixes: bool = False, soft: bool = False, ordered: bool = True) -> None:
    """Refuses a loss that does not exist, or does not fit the labels or the targets made of them.

    Args:
        name: As in `build_loss`.
        several: Whether an image may have several labels.
        mixes: Whether MixUp or CutMix mixes targets.
        soft: Whether targets are soft labels.
        ordered: Whether the classes are planes.

    Raises:
        InputError: If it does not.

    >>> check_loss("sparse", several=False, mixes=True)
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: --mixup and --cutmix make mixed targets, which a sparse loss cannot take; ...
    """
    _check_name(name)
    if name in ORDINAL and not ordered:
        raise InputError(f"--loss {name} is for z planes, whose order it knows; give --loss crossentropy.")
    if several and (_is_sparse(name) or name.lower().startswith("categorical") or name in ORDINAL):
        raise InputError(f"--loss {name} is for one label per image; give --loss crossentropy, focal or asymmetric.")
    if not several and LOSSES.get(name, (True,))[0] is None:
        raise InputError(f"--loss {name} is for several labels per image; give --loss crossentropy or focal.")
    if mixes and _is_sparse(name):
        raise InputError(
            "--mixup and --cutmix make mixed targets, which a sparse loss cannot take; "
            "give --loss crossentropy, or --mixup 0 --cutmix 0."
        )
    if soft and _is_sparse(name):
        raise InputError(
            "--soft_labels makes soft targets, which a sparse loss cannot take; "
            "give --loss crossentropy, or --soft_labels 0."
        )


def _is_sparse(name: str) -> bool:
    return name.lower().startswith("sparse")


def _check_name(name: str) -> None:
    if name.lower() in UNFIT:
        raise InputError(f"--loss {name} is not for probabilities of classes; give one of {', '.join(LOSSES)}.")
    if name in LOSSES or _is_of_keras(name):
        return
    others = [other for other in dir(keras.losses) if other.islower() and other not in UNFIT and _is_of_keras(other)]
    near = difflib.get_close_matches(name.lower(), [*LOSSES, *others], n=3)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    raise InputError(
        f"--loss {name}: there is no such loss. {meant}There are {', '.join(LOSSES)}, and those of keras.losses: "
        f"{', '.join(others)}."
    )


def _is_of_keras(name: str) -> bool:
    try:
        return callable(keras.losses.get(name))
    except ValueError:
        return False
