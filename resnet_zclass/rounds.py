"""Rounds, one `fit` each: round 1 trains the head on stored features, round 2 the backbone too."""

import contextlib
import dataclasses
import difflib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from resnet_zclass import distribute, features, profiling
from resnet_zclass.backend import describe_devices, has_gpu, keras
from resnet_zclass.batches import count_steps, own_errors, training_batches
from resnet_zclass.callbacks import MONITORS, ValidationScores
from resnet_zclass.epoch_table import EpochTable
from resnet_zclass.errors import InputError
from resnet_zclass.losses import build_loss
from resnet_zclass.pack import Subset
from resnet_zclass.runs import ROUND_FOLDERS
from resnet_zclass.schedules import plan_rates
from resnet_zclass.views import Views

OPTIMIZERS = ("rmsprop", "adam", "sgd", "adamw", "adadelta")  # that are spoken of; any of Keras' will do
HEAD_VAL_BATCH, HEAD_STEPS_AT_ONCE = 1024, 64  # features per validation step; training steps between two looks

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


def fit_head(
    model: keras.Model,
    crops: Subset,
    targets: np.ndarray,
    val_set: tuple[Subset, np.ndarray] | None,
    round_: Round,
    build_callbacks: Callable[..., list],
    fit: dict[str, Any],
    views: Views,
    folder: Path | None = None,
    clock: profiling.Clock | None = None,
    **how: Any,
) -> None:
    """Fits the head of a classifier on features of the frozen backbone, which are computed once.

    A frozen backbone is a pure function of its input. Where `views` are all that augmentation makes, this is the
    training of the whole model, crop by crop and view by view.

    Args:
        model: The classifier.
        crops: Training crops of an epoch.
        targets: Float array `(N, K)`.
        val_set: Validation crops and targets.
        round_: As of `fit_round`, like those that are not named here.
        build_callbacks: Likewise.
        fit: Likewise.
        views: Views of the crops.
        folder: Folder on the disk that features go to if they are large.
        clock: What times the parts of the round, if anything does.
        **how: `several`, `weigh` and `first_epoch`.
    """
    n_val = len(val_set[0]) if val_set else 0
    extractor = features.build_extractor(model, len(crops) * len(views) + n_val, fit["batch_size"])
    if fit["jit_compile"] == "auto" and distribute.count_replicas() == 1 and not fit["deterministic"]:
        fit = fit | {"jit_compile": "on"}
    compiled = ", the head compiled with XLA" if is_compiled(fit["jit_compile"]) else ""
    print(f"frozen backbone: features of {len(views)} views of {len(crops)} crops, by {extractor.name}{compiled}")
    if views.drawn:
        print(
            f"note: {', '.join(views.drawn)} have no end of views, so {len(views)} drawn ones of every crop stand for "
            "them in round 1; --feature_views 0 draws anew at every step, and computes the backbone again every epoch."
        )
    with clock.time("features") if clock else contextlib.nullcontext():
        stored = features.store_features(extractor, crops, views, fit["seed"], folder)
        val_stored = (features.extract_features(extractor, val_set[0]), val_set[1]) if val_set else None
    how |= {"augment": stored.pick, "clock": clock, "val_batch_size": max(HEAD_VAL_BATCH, fit["batch_size"])}
    # Two dense layers are done in milliseconds: what comes between the steps weighs, and XLA compiles them in no time.
    fit = fit | {"steps_per_execution": max(HEAD_STEPS_AT_ONCE, fit["steps_per_execution"])}
    fit_round(model.get_layer("head"), stored, targets, val_stored, round_, build_callbacks, fit, **how)


def fit_round(
    model: keras.Model,
    inputs: np.ndarray | Subset | features.StoredFeatures,
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
    clock: profiling.Clock | None = None,
    val_batch_size: int | None = None,
) -> None:
    """Compiles and fits one round.

    Args:
        model: The classifier, or its head when `inputs` are features.
        inputs: Training crops `(N, H, W, C)` or features `(N, F)`.
        targets: Float array `(N, K)`.
        val_set: Validation inputs and targets.
        round_: What to do.
        build_callbacks: Called with `monitor, patience, rates, floor, validation, batches`.
        fit: `batch_size, sync_batch_norm, optimizer, loss, focal_gamma, patience, monitor, seed, mixed_precision,
            deterministic, jit_compile, steps_per_execution, profile` of every round, and the `schedule` of its learning
            rate with `lr_decay, cycle_epochs, min_learning_rate, warmup_epochs`.
        several: Whether images have several labels.
        augment: Applied to every training batch, if given.
        mix: Applied to batch and targets then.
        weigh: Gives the weight of each image in the loss from its targets.
        first_epoch: Epoch to begin with, above 0 where an interrupted round goes on.
        clock: What times the parts of the round, if anything does.
        val_batch_size: Validation inputs per step; default as in training.
    """
    loss = build_loss(fit["loss"], several, fit["focal_gamma"])
    # A shell around the same layers is compiled, so that the model itself is saved without loss and optimizer.
    fitted = distribute.build_fitted(model.inputs, model.outputs, fit["sync_batch_norm"])
    f1 = keras.metrics.F1Score(average="micro", threshold=0.5, name="micro_f1")
    optimizer = build_optimizer(fit["optimizer"], round_.learning_rate)
    if fit["mixed_precision"] == "float16":  # whose small gradients would be none
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    steps = count_steps(len(inputs), fit["batch_size"])
    fitted.compile(
        optimizer=optimizer,
        loss=loss,
        metrics=[f1] if several else ["accuracy"],
        jit_compile=is_compiled(fit["jit_compile"]),
        steps_per_execution=divide_steps(steps, fit["steps_per_execution"]) if clock is None else 1,
    )
    if clock:
        profiling.time_steps(fitted, clock)
        inputs, augment, mix = (
            profiling.TimedCrops(inputs, clock),
            clock.wrap("augment", augment),
            clock.wrap("mix", mix),
        )
    settings = (inputs, targets, fit["batch_size"], fit["seed"], augment, mix, weigh)
    validation = None
    if val_set:
        validation = ValidationScores(*val_set, loss, several, val_batch_size or fit["batch_size"])
    callbacks = build_callbacks(
        monitor=fit["monitor"],
        patience=fit["patience"],
        rates=plan_round_rates(round_, fit),
        floor=fit["min_learning_rate"],
        validation=validation,
        batches=lambda epoch: training_batches(*settings, first_epoch=epoch),
    )
    table = EpochTable(round_.folder, fit["monitor"], MONITORS[fit["monitor"]])
    callbacks.append(table)
    if clock:
        profiling.time_callbacks(callbacks, clock)
    with contextlib.closing(table), own_errors():
        fitted.fit(
            distribute.deal_out(functools.partial(training_batches, *settings, first_epoch=first_epoch)),
            steps_per_epoch=steps,
            epochs=round_.epochs,
            initial_epoch=first_epoch,
            callbacks=callbacks,
            shuffle=False,  # the batches come shuffled
            verbose=0,
        )


def check_devices(fit: dict[str, Any]) -> None:
    """Raises `InputError` if several devices are in use and something is asked for that one alone can do."""
    for name, asked in (("--jit_compile on", fit["jit_compile"] == "on"), ("--profile", fit["profile"])):
        if asked and distribute.count_replicas() > 1:
            raise InputError(f"{name} is for one device; leave it out with several.")


def describe_settings(fit: dict[str, Any]) -> str:
    """One line for the log: devices, threads, precision, compilation and layout of what is to be fitted.

    >>> describe_settings({"mixed_precision": "none", "jit_compile": "off"}).split(", ")[-3:]
    ['float32', 'XLA off', 'channels last']
    """
    precision = "float32" if fit["mixed_precision"] == "none" else f"{fit['mixed_precision']} and float32"
    xla = "on" if is_compiled(fit["jit_compile"]) else "off"
    layout = keras.config.image_data_format().replace("_", " ")
    return f"computes with: {describe_devices()}, {precision}, XLA {xla}, {layout}"


def is_compiled(jit_compile: str) -> bool:
    """Whether XLA compiles the training step: with `"auto"` on a single GPU; on CPUs it pays for some networks only."""
    if distribute.count_replicas() > 1:
        return False
    return jit_compile == "on" or (jit_compile == "auto" and has_gpu())


def divide_steps(steps: int, most: int) -> int:
    """The largest number up to `most` that divides the steps of an epoch, which Keras would else overrun.

    >>> divide_steps(122, most=16), divide_steps(120, most=16)
    (2, 15)
    """
    if distribute.count_replicas() > 1:
        return 1
    return max(n for n in range(1, min(steps, most) + 1) if steps % n == 0)


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
        guess = difflib.get_close_matches(name, OPTIMIZERS, n=1)
        words = f"is {guess[0]} meant?" if guess else f"try {', '.join(OPTIMIZERS)}."
        raise InputError(f"--optimizer {name} is none of Keras'; {words}") from error
    optimizer.learning_rate = learning_rate
    return optimizer
