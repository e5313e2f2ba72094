"""Rounds, one `fit` each: round 1 trains the head on stored features, round 2 the backbone too."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from resnet_zclass import distribute
from resnet_zclass.backend import has_gpu, keras
from resnet_zclass.batches import count_steps, training_batches
from resnet_zclass.callbacks import ValidationScores
from resnet_zclass.errors import InputError
from resnet_zclass.losses import build_loss
from resnet_zclass.models import feature_extractor
from resnet_zclass.pack import Subset
from resnet_zclass.runs import ROUND_FOLDERS
from resnet_zclass.schedules import plan_rates

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Round:
    """One `fit` under one freeze policy.

    Attributes:
        folder: Name of its folder in that of the run.
        freeze: Name of the freeze policy.
        epochs: Epochs at most.
        learning_rate: Learning rate of the first epoch.
    """

    folder: str
    freeze: str
    epochs: int
    learning_rate: float


def plan_rounds(
    weights: str,
    freeze: str,
    epochs: int,
    head_epochs: int | None,
    learning_rate: float,
    fine_tune_learning_rate: float | None,
) -> list[Round]:
    """The rounds of a job: round 1 trains the head alone, where the backbone comes with weights; round 2 the rest.

    Raises:
        InputError: If no epochs are left or a learning rate is not positive.

    >>> [(r.folder, r.freeze) for r in plan_rounds("imagenet", "none", 30, None, 1e-3, None)]
    [('origin_model', 'head_only'), ('fine_tune_model', 'none')]
    >>> [(r.folder, r.freeze) for r in plan_rounds("none", "none", 30, None, 1e-3, None)]
    [('fine_tune_model', 'none')]
    """
    head_epochs = epochs if head_epochs is None else head_epochs
    fine_tune_learning_rate = learning_rate if fine_tune_learning_rate is None else fine_tune_learning_rate
    for name, rate in (("learning_rate", learning_rate), ("fine_tune_learning_rate", fine_tune_learning_rate)):
        if not 0 < rate < np.inf:
            raise InputError(f"--{name} must be above 0 and finite. Received: {rate}.")
    rounds = [Round(ROUND_FOLDERS[0], "head_only", head_epochs if weights != "none" else 0, learning_rate)]
    rounds.append(Round(ROUND_FOLDERS[1], freeze, epochs, fine_tune_learning_rate))
    rounds = [round_ for round_ in rounds if round_.epochs > 0]
    if not rounds:
        raise InputError(f"--epochs must be 1 or more. Received: {epochs}.")
    return rounds


def compute_features(
    model: keras.Model,
    crops: Subset,
    targets: np.ndarray,
    val_set: tuple | None,
    augment: Augment,
    views: int,
    fit: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray, tuple | None]:
    """What the frozen backbone makes of augmented views of every training crop and of the validation crops.

    A frozen backbone is a pure function of its input, so its output need not be computed again every epoch.

    Returns:
        Features `(views * N, F)`, their targets, and the validation pair `(features, targets)` or None.
    """
    extract = functools.partial(distribute.predict, feature_extractor(model), verbose=_verbosity())
    batch_size, seed = fit["batch_size"], 1000 * (fit["seed"] + 1)
    print(f"round 1: features of {views} views of {len(crops)} crops")
    features = [extract(crops, batch_size, augment, seed + view) for view in range(views)]
    val_features = (extract(val_set[0], batch_size), val_set[1]) if val_set else None
    return np.concatenate(features), np.tile(targets, (views, 1)), val_features


def fit_round(
    model: keras.Model,
    inputs: np.ndarray | Subset,
    targets: np.ndarray,
    val_set: tuple[np.ndarray, np.ndarray] | None,
    round_: Round,
    build_callbacks: Callable[..., list],
    fit: dict[str, Any],
    several: bool = False,
    augment: Augment | None = None,
    mix: Callable | None = None,
    weigh: Callable | None = None,
    first_epoch: int = 0,
) -> None:
    """Compiles and fits one round.

    Args:
        model: The classifier, or its head when `inputs` are features.
        inputs: Training crops `(N, H, W, C)` or features `(N, F)`.
        targets: Float array `(N, K)`.
        val_set: Validation inputs and targets.
        round_: What to do.
        build_callbacks: Called with `monitor, patience, rates, floor, validation`.
        fit: `batch_size, sync_batch_norm, optimizer, loss, focal_gamma, patience, monitor, seed` of every round, and
            the `schedule` of its learning rate with `lr_decay, cycle_epochs, min_learning_rate, warmup_epochs`.
        several: Whether images have several labels.
        augment: Applied to every training batch, if given.
        mix: Applied to batch and targets then.
        weigh: Gives the weight of each image in the loss from its targets.
        first_epoch: Epoch to begin with, above 0 where an interrupted round goes on.
    """
    loss = build_loss(fit["loss"], several, fit["focal_gamma"])
    # A shell around the same layers is compiled, so that the model itself is saved without loss and optimizer.
    fitted = distribute.build_fitted(model.inputs, model.outputs, fit["sync_batch_norm"])
    f1 = keras.metrics.F1Score(average="micro", threshold=0.5, name="micro_f1")
    fitted.compile(
        optimizer=build_optimizer(fit["optimizer"], round_.learning_rate),
        loss=loss,
        metrics=[f1] if several else ["accuracy"],
        jit_compile="auto" if has_gpu() else False,  # on CPUs XLA's convolutions are the slower ones
    )
    settings = (inputs, targets, fit["batch_size"], fit["seed"], augment, mix, weigh)
    validation = None
    if val_set:
        validation = ValidationScores(*val_set, loss, several, fit["batch_size"])
    callbacks = build_callbacks(
        monitor=fit["monitor"],
        patience=fit["patience"],
        rates=plan_round_rates(round_, fit),
        floor=fit["min_learning_rate"],
        validation=validation,
    )
    fitted.fit(
        distribute.deal_out(functools.partial(training_batches, *settings, first_epoch=first_epoch)),
        steps_per_epoch=count_steps(len(inputs), fit["batch_size"]),
        epochs=round_.epochs,
        initial_epoch=first_epoch,
        callbacks=callbacks,
        shuffle=False,  # the batches come shuffled
        verbose=_verbosity(),
    )


def plan_round_rates(round_: Round, fit: dict[str, Any]) -> Callable[[int], float] | None:
    """The learning rate of a round as a function of the epoch; None with the schedule plateau."""
    return plan_rates(
        fit["schedule"],
        round_.learning_rate,
        round_.epochs,
        lr_decay=fit["lr_decay"],
        floor=fit["min_learning_rate"],
        cycle_epochs=fit["cycle_epochs"],
        warmup_epochs=fit["warmup_epochs"],
    )


def list_rates(round_: Round, fit: dict[str, Any]) -> list[float]:
    """The planned learning rate of every epoch of a round; empty with the schedule plateau."""
    rates = plan_round_rates(round_, fit)
    return [] if rates is None else [rates(epoch) for epoch in range(round_.epochs)]


def build_optimizer(name: str, learning_rate: float) -> keras.optimizers.Optimizer:
    """A Keras optimizer by name, whatever its capitals, with a learning rate.

    Raises:
        InputError: If Keras has none of that name.

    >>> type(build_optimizer("rmsprop", 0.01)).__name__
    'RMSprop'
    """
    try:
        optimizer = keras.optimizers.get(name)
    except Exception as error:
        raise InputError(f"--optimizer {name} is none of Keras'; try rmsprop, adam, sgd, adamw, adadelta.") from error
    optimizer.learning_rate = learning_rate
    return optimizer


def _verbosity() -> int:
    """A moving bar on a terminal, a line per epoch in a pipe or file."""
    return 1 if sys.stdout.isatty() else 2
