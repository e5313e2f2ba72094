"""Trains a classifier in one or two rounds: first the head on a frozen backbone, then the backbone too."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import resnet_zclass as rz
from resnet_zclass.augment import build_augment
from resnet_zclass.command import command
from resnet_zclass.errors import InputError
from resnet_zclass.evaluate import evaluate_run
from resnet_zclass.files import whole_file
from resnet_zclass.folds import cross_validate
from resnet_zclass.loader import SPLITS, Dataset, read_dataset
from resnet_zclass.metrics import one_hot
from resnet_zclass.opts import DEFAULT_PRESET, TrainOptions, load_options, require
from resnet_zclass.pack import Subset
from resnet_zclass.pixels import Pixels, measure_pixels
from resnet_zclass.runs import MODEL_FILE, check_free, name_run, read_run, start_run
from resnet_zclass.simulate import simulate_demo

if TYPE_CHECKING:
    import keras

DEMO_PATH = TrainOptions().data_path


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
        rounds=rz.rounds.plan_rounds(
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
            evaluate_run(read_run(run_path), data, "test", trained_on=data)


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
    rounds: "list[rz.rounds.Round]",
    build: Callable[..., "keras.Model"],
    augment: Callable[[float], Callable],
    fit: dict[str, Any],
    record: TrainOptions,
    camera_offset: float | None = None,
    soft_labels: float = 0.0,
    feature_views: int = 4,
    deterministic: bool = False,
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
        is_fold: Whether this is a fold of a cross-validation, which makes the folder of all folds with the first.

    Raises:
        InputError: If a class lacks training or validation images, or anything named by `build` or `fit` is unknown.
    """
    train, val = data.indices("train"), data.indices("val")
    _check_trainable(data, fit)
    rz.backend.keras.utils.set_random_seed(fit["seed"])
    if deterministic:
        rz.backend.tf.config.experimental.enable_op_determinism()
    pixels = measure_pixels(Subset(data.crops, train), camera_offset)
    if pixels.root_mean == 0:
        raise InputError(f"--camera_offset {pixels.offset:g}: no pixel of the training set lies above it.")
    augment = augment(pixels.offset)
    augment(data.crops[train[:1]], np.random.default_rng(0))  # says now what does not suit these crops
    model = build(data, pixels)
    for round_ in rounds:
        rz.models.apply_freeze(model, round_.freeze)  # an unknown policy is said before hours of round 1
    targets = one_hot(data.labels, len(data.classes), soft_labels if data.is_z else 0.0)
    val_set = (Subset(data.crops, val), one_hot(data.labels[val], len(data.classes))) if len(val) else None
    start_run(run_path, dataclasses.replace(record, camera_offset=pixels.offset), data, is_fold)
    train_set = (Subset(data.crops, train), targets[train])
    for number, round_ in enumerate(rounds, start=1):
        title = f"{run_path.name}, round {number} of {len(rounds)}"
        model = train_round(
            model, round_, run_path / round_.folder, title, train_set, val_set, augment, feature_views, fit
        )
    with whole_file(run_path / MODEL_FILE) as partial:
        model.save(partial)
    print(f"model: {run_path / MODEL_FILE}")


def train_round(
    model: "keras.Model",
    round_: "rz.rounds.Round",
    folder: Path,
    title: str,
    train_set: tuple[Subset, np.ndarray],
    val_set: tuple[Subset, np.ndarray] | None,
    augment: Callable,
    feature_views: int,
    fit: dict[str, Any],
) -> "keras.Model":
    """Trains one round of a run into its folder; returns the best checkpoint. Arguments as of `train_run`."""
    folder.mkdir()
    checkpoint_path = folder / rz.callbacks.CHECKPOINT_FILE
    rz.models.apply_freeze(model, round_.freeze)
    callbacks = functools.partial(rz.callbacks.build_callbacks, folder, model, title=title)
    try:
        if round_.freeze == "head_only":
            features = rz.rounds.compute_features(model, *train_set, val_set, augment, feature_views, fit)
            rz.rounds.fit_round(model.get_layer("head"), *features, None, round_, callbacks, **fit)
        else:
            rz.rounds.fit_round(model, *train_set, val_set, augment, round_, callbacks, **fit)
    except KeyboardInterrupt:
        saved = checkpoint_path.is_file()
        said = f"the best so far is {checkpoint_path}; --overwrite begins anew." if saved else "nothing was saved yet."
        raise KeyboardInterrupt(said) from None
    if not checkpoint_path.is_file():
        raise InputError(f"{folder}: the loss was no number from the first epoch on; lower --learning_rate.")
    return rz.models.load_model(checkpoint_path)


def _check_trainable(data: Dataset, fit: dict[str, Any]) -> None:
    parted = data.items.groupby("group").split.nunique()
    if (parted > 1).any():
        print(f"warning: {(parted > 1).sum()} groups stand in several splits, so that results flatter.")
    rz.callbacks.check_monitor(fit["monitor"], has_validation=len(data.indices("val")) > 0)
    rz.rounds.build_optimizer(fit["optimizer"], 1e-3)
    for split in SPLITS:
        present = set(data.items.label[data.indices(split)])
        missing = [name for name in data.classes.LabelText if name not in present]
        if split == "train" and not present:
            raise InputError(f"{data.path} has no split train; make_dataset --fractions sets its share.")
        if missing and present:
            raise InputError(f"{data.path}: class {missing[0]!r} has no image in {split}; all splits want all classes.")


if __name__ == "__main__":
    sys.exit(main())
