"""Trains a classifier in one or two rounds: first the head on a frozen backbone, then the backbone too."""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import resnet_zclass as rz
from resnet_zclass.augment import build_augment
from resnet_zclass.errors import InputError
from resnet_zclass.evaluate import Evaluation, evaluate_run, print_scores, score
from resnet_zclass.files import whole_file
from resnet_zclass.loader import SPLITS, Dataset, read_dataset, split_by_group, split_in_folds
from resnet_zclass.metrics import one_hot
from resnet_zclass.opts import DEFAULT_PRESET, TrainOptions, command, load_options, require
from resnet_zclass.pack import Subset
from resnet_zclass.pixels import Pixels, measure_pixels
from resnet_zclass.runs import FOLDS_FILE, MODEL_FILE, ROUND_FOLDERS, check_free, name_run, read_run, start_run
from resnet_zclass.simulate import simulate_demo

if TYPE_CHECKING:
    import keras

DEMO_PATH = TrainOptions().data_path
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


@command("train")
def main(options: TrainOptions) -> None:
    """Trains the run that the options describe, and evaluates it."""
    require(options, "data_path")
    if Path(options.data_path) == Path(DEMO_PATH):
        simulate_demo(load_options("simulate", DEFAULT_PRESET))
    data = read_dataset(options.data_path)
    if options.thin is None:
        options = dataclasses.replace(options, thin=0.3 if data.crops.dtype.kind == "u" else 1.0)
    run_path = name_run(options.save_logs_path, options.run_name or options.model_name)
    check_free(run_path, options.overwrite)
    train = functools.partial(
        train_run,
        rounds=plan_rounds(
            options.weights,
            options.freeze,
            options.epochs,
            options.head_epochs,
            options.learning_rate,
            options.fine_tune_learning_rate,
        ),
        build=functools.partial(
            build_for,
            model_name=options.model_name,
            weights=options.weights,
            im_size=options.im_size,
            num_class=options.num_class,
            scaling=options.scaling,
            stabilise=options.stabilise,
            hidden=options.hidden,
            stem_stride=options.stem_stride,
        ),
        augment=functools.partial(build_augment, options.flip, options.turn, options.shift_px, options.thin),
        camera_offset=options.camera_offset,
        fit=dict(
            batch_size=options.batch_size,
            optimizer=options.optimizer,
            schedule=options.schedule,
            lr_decay=options.lr_decay,
            patience=options.patience,
            monitor=options.monitor,
            seed=options.seed,
        ),
        soft_labels=options.soft_labels,
        feature_views=options.feature_views,
        deterministic=options.deterministic,
        record=dataclasses.replace(options, run_name=run_path.name, overwrite=False),
    )
    if options.folds:
        cross_validate(data, run_path, train, options.folds, options.seed)
    else:
        train(data, run_path)
        if not len(data.indices("test")):
            print(f"{data.path} has no split test, so the run is not evaluated.")
        elif options.evaluate:
            evaluate_run(read_run(run_path), data)


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


def build_for(data: Dataset, pixels: Pixels, num_class: int | None = None, **model: Any) -> "keras.Model":
    """Builds the classifier for a set.

    Args:
        data: The set: shape of crops, classes.
        pixels: What its training crops are like.
        num_class: Number of classes that is expected; None takes what there is.
        **model: `model_name, weights, im_size, scaling, stabilise, hidden, stem_stride` of `models.build_classifier`.

    Raises:
        InputError: If the number of classes is not `num_class`, or the model cannot be built.
    """
    n_classes = len(data.classes)
    if num_class is not None and num_class != n_classes:
        raise InputError(f"--num_class {num_class}: {data.path} has {n_classes} classes.")
    return rz.models.build_classifier(data.crops.shape[1:], n_classes, pixels=pixels, **model)


def train_run(
    data: Dataset,
    run_path: Path,
    rounds: list[Round],
    build: Callable[..., "keras.Model"],
    augment: Callable[[float], Augment],
    fit: dict[str, Any],
    camera_offset: float | None = None,
    soft_labels: float = 0.0,
    feature_views: int = 4,
    deterministic: bool = False,
    record: TrainOptions | None = None,
    is_fold: bool = False,
) -> None:
    """Trains on the splits train and val of a set, round after round, and writes the folder of the run.

    Args:
        data: The set.
        run_path: Folder to write.
        rounds: What to train, in order; each goes on from the best checkpoint of the one before.
        build: Called with the set and what its pixels are like; returns the classifier.
        augment: Called with the camera's offset; returns the function of raw crops and a generator.
        fit: `batch_size, optimizer, schedule, lr_decay, patience, monitor, seed` of every round.
        camera_offset: Camera counts without light; None measures it.
        soft_labels: Width in classes of the targets; 0 for plain ones.
        feature_views: Augmented views whose features are stored while the backbone is frozen.
        deterministic: Whether only deterministic operations are used.
        record: The options to write into the run.
        is_fold: Whether this is a fold of a cross-validation, whose split is written too.

    Raises:
        InputError: If a class lacks training or validation images, or anything named by `build` or `fit` is unknown.
    """
    train, val = data.indices("train"), data.indices("val")
    _check_trainable(data, fit)
    rz.backend.keras.utils.set_random_seed(fit["seed"])
    if deterministic:
        rz.backend.tf.config.experimental.enable_op_determinism()
    pixels = measure_pixels(Subset(data.crops, train), camera_offset)
    augment = augment(pixels.offset)
    augment(data.crops[train[:1]], np.random.default_rng(0))  # says now what does not suit these crops
    model = build(data, pixels)
    for round_ in rounds:
        rz.models.apply_freeze(model, round_.freeze)  # an unknown policy is said before hours of round 1
    targets = one_hot(data.labels, len(data.classes), soft_labels if data.is_z else 0.0)
    val_set = (data.crops[val], one_hot(data.labels[val], len(data.classes))) if len(val) else None
    start_run(run_path, dataclasses.replace(record, camera_offset=pixels.offset), data, is_fold)
    for number, round_ in enumerate(rounds, start=1):
        folder = run_path / round_.folder
        folder.mkdir()
        rz.models.apply_freeze(model, round_.freeze)
        title = f"{run_path.name}, round {number} of {len(rounds)}"
        callbacks = functools.partial(rz.callbacks.build_callbacks, folder, model, title=title)
        crops = Subset(data.crops, train)
        checkpoint_path = folder / rz.callbacks.CHECKPOINT_FILE
        try:
            if round_.freeze == "head_only":
                features = compute_features(model, crops, targets[train], val_set, augment, feature_views, fit)
                fit_round(model.get_layer("head"), *features, None, round_, callbacks, **fit)
            else:
                fit_round(model, crops, targets[train], val_set, augment, round_, callbacks, **fit)
        except KeyboardInterrupt:
            best = f"the best so far is {checkpoint_path}" if checkpoint_path.is_file() else "nothing was saved yet"
            raise KeyboardInterrupt(f"{best}; the same command begins anew.") from None
        if not checkpoint_path.is_file():
            raise InputError(f"{folder}: the loss was no number from the first epoch on; lower --learning_rate.")
        model = rz.models.load_model(checkpoint_path)
    with whole_file(run_path / MODEL_FILE) as partial:
        model.save(partial)
    print(f"model: {run_path / MODEL_FILE}")


def compute_features(
    model: "keras.Model", crops: Subset, targets: np.ndarray, val_set: tuple | None, augment: Augment, views: int, fit
) -> tuple[np.ndarray, np.ndarray, tuple | None]:
    """What the frozen backbone makes of augmented views of every training crop and of the validation crops.

    A frozen backbone is a pure function of its input, so its output need not be computed again every epoch.

    Returns:
        Features `(views * N, F)`, their targets, and the validation pair `(features, targets)` or None.
    """
    extractor = rz.models.feature_extractor(model)

    def extract(crops, augment=None, seed=0) -> np.ndarray:
        unused = np.zeros(len(crops), np.int32)
        data = rz.batches.ordered_batches(crops, unused, fit["batch_size"], augment, seed)
        return extractor.predict(data, verbose=_verbosity())

    print(f"round 1: features of {views} views of {len(crops)} crops")
    features = [extract(crops, augment, seed=1000 * (fit["seed"] + 1) + view) for view in range(views)]
    val_features = (extract(val_set[0]), val_set[1]) if val_set else None
    return np.concatenate(features), np.tile(targets, (views, 1)), val_features


def fit_round(
    model: "keras.Model",
    inputs: np.ndarray | Subset,
    targets: np.ndarray,
    val_set: tuple[np.ndarray, np.ndarray] | None,
    augment: Augment | None,
    round_: Round,
    build_callbacks: Callable[..., list],
    batch_size: int,
    optimizer: str,
    schedule: str,
    lr_decay: float,
    patience: int,
    monitor: str,
    seed: int,
) -> None:
    """Compiles and fits one round.

    Args:
        model: The classifier, or its head when `inputs` are features.
        inputs: Training crops `(N, H, W, C)` or features `(N, F)`.
        targets: Float array `(N, K)`.
        val_set: Validation inputs and targets.
        augment: Applied to every training batch, if given.
        round_: What to do.
        build_callbacks: Called with `monitor, patience, schedule, learning_rate, epochs, lr_decay`.
        batch_size: Inputs per step.
        optimizer: A Keras optimizer's name.
        schedule: `"plateau"`, `"smooth"` or `"cosine"`.
        lr_decay: Factor per epoch of the smooth one.
        patience: Epochs without a better monitor before the end.
        monitor: What is watched.
        seed: Seed of order and augmentation.
    """
    model.compile(
        optimizer=build_optimizer(optimizer, round_.learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile="auto" if rz.backend.has_gpu() else False,  # on CPUs XLA's convolutions are the slower ones
    )
    batches, steps = rz.batches.training_batches(inputs, targets, batch_size, seed, augment)
    callbacks = build_callbacks(
        monitor=monitor,
        patience=patience,
        schedule=schedule,
        learning_rate=round_.learning_rate,
        epochs=round_.epochs,
        lr_decay=lr_decay,
    )
    model.fit(
        batches,
        steps_per_epoch=steps,
        epochs=round_.epochs,
        validation_data=rz.batches.ordered_batches(*val_set, max(batch_size, 256)) if val_set else None,
        callbacks=callbacks,
        shuffle=False,  # the batches come shuffled
        verbose=_verbosity(),
    )


def build_optimizer(name: str, learning_rate: float) -> "keras.optimizers.Optimizer":
    """A Keras optimizer by name, whatever its capitals, with a learning rate.

    Raises:
        InputError: If Keras has none of that name.

    >>> type(build_optimizer("rmsprop", 0.01)).__name__
    'RMSprop'
    """
    try:
        optimizer = rz.backend.keras.optimizers.get(name)
    except Exception as error:
        raise InputError(f"--optimizer {name} is none of Keras'; try rmsprop, adam, sgd, adamw, adadelta.") from error
    optimizer.learning_rate = learning_rate
    return optimizer


def cross_validate(data: Dataset, run_path: Path, train: Callable[..., None], n_folds: int, seed: int) -> dict:
    """Trains and tests `n_folds` times, each time on another share of the groups, and pools the test predictions.

    Writes the runs `fold_0`, `fold_1`, ... and `folds.json`: the scores of every fold, of all test crops pooled, and
    mean and standard deviation over folds.
    """
    groups, labels = data.items.group.to_numpy(), data.labels
    fold_of_crop = split_in_folds(groups, n_folds, seed, labels)
    evaluations: list[Evaluation] = []
    for fold in range(n_folds):
        print(f"fold {fold + 1} of {n_folds}")
        splits = np.full(len(data.items), "test", dtype="<U5")
        rest = fold_of_crop != fold
        splits[rest] = split_by_group(groups[rest], (0.85, 0.15, 0.0), seed=seed + fold, labels=labels[rest])
        fold_data = data.with_splits(splits)
        train(fold_data, run_path / f"fold_{fold}", is_fold=True)
        evaluations.append(evaluate_run(read_run(run_path / f"fold_{fold}"), fold_data))
    summary = pool_evaluations(evaluations, data)
    with whole_file(run_path / FOLDS_FILE) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")
    print_scores(summary["pooled"], f"{run_path}, {n_folds} folds pooled")
    return summary


def pool_evaluations(evaluations: list[Evaluation], data: Dataset) -> dict:
    """Scores of every fold (`folds`), of all folds' predictions together (`pooled`), their `mean` and `std`."""
    labels, probabilities, baseline = (
        np.concatenate([getattr(evaluation, name) for evaluation in evaluations])
        for name in ("labels", "probabilities", "baseline")
    )
    z_um = data.classes.z_um.to_numpy(float)
    folds = [evaluation.scores for evaluation in evaluations]
    numbers = [key for key, value in folds[0].items() if isinstance(value, float)]
    return {
        "pooled": score(labels, probabilities, baseline, data.is_z, None if np.isnan(z_um).any() else z_um),
        "mean": {key: float(np.mean([fold[key] for fold in folds])) for key in numbers},
        "std": {key: float(np.std([fold[key] for fold in folds], ddof=1)) for key in numbers},
        "folds": folds,
    }


def _check_trainable(data: Dataset, fit: dict[str, Any]) -> None:
    parted = data.items.groupby("group").split.nunique()
    if (parted > 1).any():
        print(f"warning: {(parted > 1).sum()} groups stand in several splits, so that results flatter.")
    rz.callbacks.check_monitor(fit["monitor"], has_validation=len(data.indices("val")) > 0)
    build_optimizer(fit["optimizer"], 1e-3)
    for split in SPLITS:
        present = set(data.items.label[data.indices(split)])
        missing = [name for name in data.classes.LabelText if name not in present]
        if split == "train" and not present:
            raise InputError(f"{data.path} has no split train; make_dataset --fractions sets its share.")
        if missing and present:
            raise InputError(f"{data.path}: class {missing[0]!r} has no image in {split}; all splits want all classes.")


def _verbosity() -> int:
    """A moving bar on a terminal, a line per epoch in a pipe or file."""
    return 1 if sys.stdout.isatty() else 2


if __name__ == "__main__":
    sys.exit(main())
