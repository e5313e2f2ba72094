"""Trains a classifier in one or two rounds: first the head on a frozen backbone, then the backbone too."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import resnet_zclass as rz
from resnet_zclass.augment import STRENGTHS
from resnet_zclass.cluster import find_cluster
from resnet_zclass.command import command
from resnet_zclass.errors import InputError
from resnet_zclass.evaluate import evaluate_run, name_evaluation
from resnet_zclass.folds import cross_validate, hold_out_validation
from resnet_zclass.imbalance import image_weights
from resnet_zclass.loader import Dataset, read_dataset
from resnet_zclass.metrics import fit_thresholds, one_hot
from resnet_zclass.mixing import build_mix
from resnet_zclass.options import TrainOptions
from resnet_zclass.opts import DEFAULT_PRESET, load_options, pick, require
from resnet_zclass.pack import Subset
from resnet_zclass.predict import predict_probabilities
from resnet_zclass.prepare import Prepared, build_for, check_trainable, prepare, settle
from resnet_zclass.preview import draw_preview
from resnet_zclass.resumption import check_same_data, claim_run, clear_states, is_begun, is_finished, note_data_path
from resnet_zclass.runs import (
    MODEL_FILE,
    choose_reading,
    find_run,
    name_run,
    read_run,
    recognise,
    save_model,
    start_run,
    write_classes,
)
from resnet_zclass.simulate import simulate_demo
from resnet_zclass.trust import learn_trust
from resnet_zclass.workers import launch_workers, list_facts, take_part

if TYPE_CHECKING:
    import keras

DEMO_PATH = TrainOptions().data_path
KEPT_SHARE = 0.1  # of the time of a round with fast epochs that goes into files to go on from

# Which options go where.
ROUND_OPTIONS = ("weights", "freeze", "epochs", "head_epochs", "learning_rate", "fine_tune_learning_rate")
MODEL_OPTIONS = (
    "model_name", "weights", "stem", "im_size", "num_class", "scaling", "stabilise", "hidden", "dropout", "stem_stride",
    "mixed_precision"
)  # fmt: skip
FIT_OPTIONS = (
    "batch_size", "optimizer", "loss", "focal_gamma", "schedule", "lr_decay", "cycle_epochs", "min_learning_rate",
    "warmup_epochs", "patience", "monitor", "seed", "sync_batch_norm", "mixed_precision",
    "deterministic", "jit_compile", "steps_per_execution", "profile"
)  # fmt: skip
DEVICE_OPTIONS = ("multiGPU", "gpus", "join_timeout_s")


@command("train")
def main(options: TrainOptions) -> None:
    """Trains the run that the options describe, and evaluates it."""
    require(options, "data_path")
    rz.keras_h5.check_answers(options.weights)
    if Path(options.data_path) == Path(DEMO_PATH):
        simulate_demo(load_options("simulate", DEFAULT_PRESET))
    data = read_dataset(options.data_path, **choose_reading(options))
    options = settle(options, data)
    cluster = find_cluster(read_slurm=rz.distribute.read_slurm)
    if options.workers > 1:
        if cluster:
            raise InputError(
                "--workers starts workers on this machine, but the environment names others; leave it out."
            )
        launch_workers(options)
        return
    run_path = name_run(options.save_logs_path, options.run_name or options.model_name)
    begun = claim_run(run_path, options) if cluster is None or cluster.is_chief else False
    data = recognise_before(data, options.weights, run_path, options.folds > 0)
    train = functools.partial(
        train_run,
        rounds=rz.rounds.plan_rounds(**pick(scale_rates(options), *ROUND_OPTIONS)),
        build=functools.partial(build_for, **pick(options, *MODEL_OPTIONS)),
        weights=options.weights,
        strengths=pick(options, *STRENGTHS),
        mixing=pick(options, "mixup", "cutmix"),
        balance=pick(options, "oversample", "oversample_to", "class_weights"),
        fit=pick(options, *FIT_OPTIONS),
        record=dataclasses.replace(options, run_name=run_path.name, overwrite=False, resume=False),
        **pick(options, "head_epochs", "soft_labels", "thresholds", "feature_views", "preview"),
    )
    facts = list_facts(options, data)
    with take_part(cluster, run_path, begun, facts, **pick(options, *DEVICE_OPTIONS)) as (folder, resume):
        if resume and is_finished(folder):
            print(f"{folder} is finished already.")
        train = functools.partial(train, resume=resume)
        if options.folds and not options.preview:
            if not (resume and is_finished(folder)):
                cross_validate(data, folder, train, options.folds, options.seed, options.val_fraction, options.keep_val)
            return
        if not len(data.indices("val")) and options.monitor.startswith("val_"):
            data = hold_out_validation(data, options.val_fraction, options.seed)
        train(data, folder)
        if options.evaluate and not options.preview:
            evaluate_held_out(folder, data, again=not resume)


def recognise_before(data: Dataset, weights: str, run_path: Path, folds: bool) -> Dataset:
    """The set, split as the run was whose model is trained further, if any.

    Raises:
        InputError: If that model lies in the run to be written.
    """
    if run_path.resolve() in Path(weights).resolve().parents:
        raise InputError(f"--weights {weights} lies in the run to be written; choose another --run_name.")
    if (before := find_run(weights)) is None:
        return data
    if folds:
        print(f"warning: folds test on images that {before} may have been trained on; results flatter.")
    return recognise(before, data)


def scale_rates(options: TrainOptions) -> TrainOptions:
    """The options with learning rates for their batch size, by the linear rule; says aloud what was changed.

    Source: Goyal et al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, arXiv:1706.02677, 2017.

    >>> scale_rates(TrainOptions(batch_size=64, base_batch_size=16, learning_rate=0.001)).learning_rate
    learning rates times 4, from batches of 16 to 64; --warmup_epochs 5 helps where that is much.
    0.004
    """
    if options.base_batch_size is None or options.base_batch_size == options.batch_size:
        return options
    factor = options.batch_size / options.base_batch_size
    print(
        f"learning rates times {factor:g}, from batches of {options.base_batch_size} to {options.batch_size}; "
        "--warmup_epochs 5 helps where that is much."
    )
    fine_tune = options.fine_tune_learning_rate
    return dataclasses.replace(
        options,
        learning_rate=options.learning_rate * factor,
        fine_tune_learning_rate=None if fine_tune is None else fine_tune * factor,
    )


def evaluate_held_out(run_path: Path, data: Dataset, again: bool = True) -> None:
    """Evaluates a run on the split test, or on val where there is no test; `again` even where it was done before."""
    held_out = [split for split in ("test", "val") if len(data.indices(split))]
    if not held_out:
        print(f"{data.path} has no split test or val, so the run is not evaluated.")
        return
    if not again and (run_path / name_evaluation(held_out[0]) / "metrics.json").is_file():
        return
    if held_out[0] == "val":
        print("There is no split test: val is evaluated, on which the best epoch was chosen, so it flatters.")
    evaluate_run(read_run(run_path), data, held_out[0], data, folder_name=name_evaluation(held_out[0]))


def train_run(
    data: Dataset,
    run_path: Path,
    rounds: "list[rz.rounds.Round]",
    build: Callable[..., "keras.Model"],
    strengths: dict[str, float],
    mixing: dict[str, float],
    balance: dict[str, Any],
    fit: dict[str, Any],
    record: TrainOptions,
    weights: str = "none",
    head_epochs: int | None = None,
    soft_labels: float = 0.0,
    thresholds: str | None = None,
    feature_views: int = 4,
    preview: bool = False,
    is_fold: bool = False,
    resume: bool = False,
) -> None:
    """Trains on the splits train and val of a set, round after round, and writes the folder of the run.

    Args:
        data: The set.
        run_path: Folder to write.
        rounds: What to train, in order; each goes on from the best checkpoint of the one before.
        build: Called with the set and what its pixels are like; returns the classifier.
        strengths: Of augmentation, as `augment.build_augment` takes them; a `camera_offset` of None is measured.
        mixing: Of MixUp and CutMix, as `mixing.build_mix` takes them.
        balance: `oversample`, `oversample_to` and `class_weights`.
        fit: How every round is fitted, see `rounds.fit_round`.
        record: The options to write into the run.
        weights: What the model starts from; of a run's `model.keras` the head is kept where the classes are the same.
        head_epochs: Epochs of round 1, if asked for; else a kept head has no round 1.
        soft_labels: Width in classes of the targets; 0 for plain ones.
        thresholds: `"fit"` or `"half"` with several labels per image.
        feature_views: Augmented views whose features are stored while the backbone is frozen, where there is no end of
            views; 0: features are computed anew.
        preview: Whether to stop before training, when the pictures of what would be trained are drawn.
        is_fold: Whether this is a fold of a cross-validation, which makes the folder of all folds with the first.
        resume: Whether to go on with the run if it was begun.

    Raises:
        InputError: If a class lacks training or validation images, or something does not suit the set.
    """
    if goes_on := resume and is_begun(run_path, record):
        check_same_data(run_path, data)
        note_data_path(run_path, record.data_path)
        if is_finished(run_path):
            clear_states(run_path)
            return
    check_trainable(data, fit, strengths | mixing, soft_labels)
    rz.rounds.check_devices(fit)
    print(rz.rounds.describe_settings(fit))
    rz.backend.keras.utils.set_random_seed(fit["seed"])
    if fit["deterministic"]:
        rz.backend.tf.config.experimental.enable_op_determinism()
    made = prepare(data, rounds, build, strengths, balance, weights, head_epochs, feature_views, fit["seed"], record)
    rates = [(round_.folder, rz.rounds.list_rates(round_, fit)) for round_ in made.rounds]
    if not goes_on:
        record = dataclasses.replace(record, camera_offset=made.camera_offset)
        start_run(run_path, record, data, is_fold and not resume)
    draw_preview(run_path, data, made.augment, made.drawn, made.class_weights, rates, fit["seed"])
    if preview:
        print(f"pictures: {run_path}")
        return
    targets = one_hot(data.labels, len(data.classes), soft_labels) if data.is_z else data.targets
    model = train_rounds(data, run_path, made, targets, build_mix(**mixing), fit, goes_on)
    model, *_ = rz.stripping.strip_model(model)  # of mixed precision, for whoever runs it
    if thresholds == "fit":
        write_classes(run_path, data, fit_on_validation(model, data))
    learn_trust(run_path, model, data, made.camera_offset, fit["seed"])
    save_model(run_path, model, data, weights)
    clear_states(run_path)
    print(f"model: {run_path / MODEL_FILE}")


def train_rounds(
    data: Dataset,
    run_path: Path,
    made: Prepared,
    targets: np.ndarray,
    mix: Callable | None,
    fit: dict[str, Any],
    resume: bool = False,
) -> "keras.Model":
    """Trains round after round, each from the best checkpoint of the one before; returns the last one's best.

    Arguments as of `train_run`; `targets` are those of all crops, `(N, K)`.
    """
    model, weighs = made.model, bool((made.class_weights != 1).any())
    for number, round_ in enumerate(made.rounds, start=1):
        model = train_round(
            model,
            round_,
            run_path / round_.folder,
            f"{run_path.name}, round {number} of {len(made.rounds)}",
            train_set=(Subset(data.crops, made.drawn), targets[made.drawn]),
            val_set=_take(data, "val"),
            augment=made.augment,
            mix=mix,
            weigh=functools.partial(image_weights, weights=made.class_weights) if weighs else None,
            views=made.views,
            fit=fit,
            several=data.several,
            resume=resume,
        )
    return model


def train_round(
    model: "keras.Model",
    round_: "rz.rounds.Round",
    folder: Path,
    title: str,
    train_set: tuple[Subset, np.ndarray],
    val_set: tuple[Subset, np.ndarray] | None,
    augment: Callable,
    mix: Callable | None,
    weigh: Callable | None,
    views: "rz.views.Views | None",
    fit: dict[str, Any],
    several: bool,
    resume: bool = False,
) -> "keras.Model":
    """Trains one round of a run into its folder; returns the best checkpoint. Arguments as of `train_run`.

    While the backbone is frozen, features of the `views` of single images are stored, so nothing is mixed.
    """
    folder.mkdir(exist_ok=resume)
    found = rz.training_state.find_state(folder) if resume else None
    if found and (found[1]["stopped"] or found[1]["epoch"] >= round_.epochs):
        print(f"{title}: finished already.")
        return load_best(folder, fit["seed"])
    rz.models.apply_freeze(model, round_.freeze)
    clock = rz.profiling.Clock() if fit["profile"] else None
    traced = rz.profiling.TRACED_STEPS if fit["profile"] else None
    stores = round_.freeze == "head_only" and views is not None
    callbacks = functools.partial(build_callbacks, folder, model, found, stores, title=title, traced=traced)
    how = {"several": several, "weigh": weigh, "first_epoch": found[1]["epoch"] if found else 0, "clock": clock}
    try:
        if round_.freeze == "head_only" and found:
            check_backbone(model, folder)
        if stores:
            if mix is not None:
                print("note: --mixup and --cutmix mix no stored features; --feature_views 0 mixes in this round too.")
            rz.rounds.fit_head(model, *train_set, val_set, round_, callbacks, fit, views, folder, **how)
        else:
            rz.rounds.fit_round(model, *train_set, val_set, round_, callbacks, fit, augment=augment, mix=mix, **how)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(folder, title)) from None
    except OSError as error:  # a full disk, or a drive that is gone
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise InputError(f"{what}; when that is mended, {_how_to_go_on(folder, title)}") from error
    if not (folder / rz.callbacks.CHECKPOINT_FILE).is_file():
        raise InputError(f"{folder}: {fit['monitor']} was no number from the first epoch on; lower --learning_rate.")
    if clock:
        rz.profiling.report(clock, folder / rz.profiling.PROFILE_FILE, title)
    return load_best(folder, fit["seed"])


def _how_to_go_on(folder: Path, title: str) -> str:
    checkpoint_path, epoch = folder / rz.callbacks.CHECKPOINT_FILE, rz.training_state.count_epochs(folder) + 1
    saved = f"; the best so far is {checkpoint_path}" if checkpoint_path.is_file() else ""
    return f"--resume goes on from epoch {epoch} of {title}{saved}."


def build_callbacks(
    folder: Path, model: "keras.Model", found: tuple | None, is_fast: bool = False, **watched: Any
) -> "list[keras.callbacks.Callback]":
    """The callbacks of a round; the last one keeps its state and goes on from what was `found`.

    Of a round whose epochs are fast (`is_fast`), on one device, model and state are written in a share of the time.
    """
    pace = rz.pace.Pace(KEPT_SHARE) if is_fast and rz.distribute.count_replicas() == 1 else None
    callbacks = rz.callbacks.build_callbacks(folder, model, waits=pace is not None, **watched)
    return [*callbacks, rz.training_state.KeepState(folder, callbacks, found, pace)]


def load_best(folder: Path, seed: int) -> "keras.Model":
    """Loads the best checkpoint of a round; a model draws the seeds of its dropout when it is loaded."""
    rz.backend.keras.utils.set_random_seed(seed)
    return rz.models.load_model(folder / rz.callbacks.CHECKPOINT_FILE)


def check_backbone(model: "keras.Model", folder: Path) -> None:
    """Raises `InputError` if the frozen backbone, which no state holds, is not the one that a round began with."""
    before = rz.models.load_model(folder / rz.callbacks.CHECKPOINT_FILE)
    digests = {rz.rebuild.digest_weights(*part.get_layer("backbone").get_weights()) for part in (before, model)}
    if len(digests) > 1:
        raise InputError(f"--weights holds others than those that {folder} began with; --overwrite begins anew.")


def fit_on_validation(model: "keras.Model", data: Dataset) -> np.ndarray:
    """Thresholds `(K,)` with the best F1 of every class on the split val; 0.5 where there is none."""
    val = data.indices("val")
    if not len(val):
        print("note: there is no split val to fit thresholds on; they are 0.5.")
        return np.full(len(data.classes), 0.5)
    return fit_thresholds(data.targets[val], predict_probabilities(model, Subset(data.crops, val)))


def _take(data: Dataset, split: str) -> tuple[Subset, np.ndarray] | None:
    indices = data.indices(split)
    return (Subset(data.crops, indices), data.targets[indices]) if len(indices) else None


if __name__ == "__main__":
    sys.exit(main())
