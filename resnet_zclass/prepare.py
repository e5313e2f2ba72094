"""What is settled before a training: checks of set against options, classes in balance, model and rounds."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import resnet_zclass as rz
from resnet_zclass import imbalance
from resnet_zclass.augment import build_augment, check_z_safe
from resnet_zclass.errors import InputError
from resnet_zclass.labels import read_label_table
from resnet_zclass.loader import Dataset
from resnet_zclass.options import TrainOptions
from resnet_zclass.opts import load_options
from resnet_zclass.pack import Subset
from resnet_zclass.pixels import Pixels, measure_pixels
from resnet_zclass.runs import ROUND_FOLDERS, find_run
from resnet_zclass.splits import SPLITS
from resnet_zclass.views import Views, list_views

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a training begins with.

    Attributes:
        model: The classifier, with the weights it starts from.
        rounds: What to train, in order.
        augment: Function of raw crops and a generator.
        views: Views of crops whose features stand for it while the backbone is frozen; None: it is computed anew.
        camera_offset: Camera counts without light, given or measured.
        drawn: Indices of the training images of an epoch, with repeats.
        class_weights: Weight of every class in the loss, `(K,)`.
    """

    model: "keras.Model"
    rounds: "list[rz.rounds.Round]"
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    views: Views | None
    camera_offset: float
    drawn: np.ndarray
    class_weights: np.ndarray


def settle(options: TrainOptions, data: Dataset) -> TrainOptions:
    """The options with what depends on the set filled in.

    Raises:
        InputError: If they do not suit the set.
    """
    if options.thresholds and not data.several:
        raise InputError("--thresholds are for several labels per image; with one label the most probable class wins.")
    if options.thin is None:
        counts = data.crops.dtype.kind == "u" and data.crops.shape[3] == 1
        options = dataclasses.replace(options, thin=0.3 if counts else 1.0)
    return dataclasses.replace(
        options,
        thresholds=(options.thresholds or "fit") if data.several else None,
        stem=rz.models.resolve_stem(options.stem, options.model_name, data.crops.shape[3]),
    )


def check_trainable(data: Dataset, fit: dict[str, Any], strengths: dict[str, float], soft_labels: float) -> None:
    """Says what does not suit the set, before any work is done; arguments as of `train_run`.

    Raises:
        InputError: If a class has no image in a split that has others, or an option cannot be had with these labels.
    """
    for split, others in (("test", ["train", "val"]), ("val", ["train"])):
        shared = set(data.items.group[data.indices(split)]) & set(data.items.group[data.items.split.isin(others)])
        if shared:
            print(f"warning: {len(shared)} groups stand in {split} and in {' or '.join(others)}: {split} flatters.")
    if data.items.group.is_unique and not (data.path / "manifest.csv").is_file() and len(data.indices("train")):
        print(
            "warning: which images belong together (a bead, a field, an experiment) is not known, so training may see "
            "what it is tested on; --group_regex finds it in the names of the files."
        )
    rz.callbacks.check_monitor(fit["monitor"], len(data.indices("val")) > 0, data.several)
    rz.rounds.build_optimizer(fit["optimizer"], 1e-3)
    mixes = bool(strengths["mixup"] or strengths["cutmix"])
    rz.losses.check_loss(fit["loss"], data.several, mixes, soft=bool(soft_labels and data.is_z), ordered=data.is_z)
    if data.is_z:
        check_z_safe(strengths)
    if not len(data.indices("train")):
        raise InputError(f"{data.path} has no split train; --fractions sets its share.")
    check_classes(data)


def check_classes(data: Dataset) -> None:
    """Raises `InputError` if a class has no image in a split that has others; with several labels it is said aloud."""
    targets, names = data.targets, list(data.classes.LabelText)
    for split in SPLITS:
        present = targets[data.indices(split)].any(axis=0)
        missing = [name for name, there in zip(names, present, strict=True) if not there]
        if missing and present.any():
            if not data.several:
                raise InputError(
                    f"{data.path}: class {missing[0]!r} has no image in {split}; all splits want all classes."
                )
            print(f"warning: {len(missing)} of {len(names)} classes have no image in {split}: {', '.join(missing)}.")


def prepare(
    data: Dataset,
    rounds: "list[rz.rounds.Round]",
    build: Callable[..., "keras.Model"],
    strengths: dict[str, Any],
    balance: dict[str, Any],
    weights: str,
    head_epochs: int | None,
    feature_views: int,
    seed: int,
    record: TrainOptions,
) -> Prepared:
    """Measures pixels, balances classes, builds the model and tries what would else fail hours later.

    Arguments as of `train.train_run`.

    Raises:
        InputError: If something does not suit the set.
    """
    train = data.indices("train")
    pixels = measure_pixels(Subset(data.crops, train), strengths["camera_offset"])
    if pixels.is_dark:
        raise InputError(f"--camera_offset {pixels.offset:g}: no pixel of the training set lies above it.")
    augment = build_augment(**strengths | {"camera_offset": pixels.offset})
    augment(data.crops[train[:1]], np.random.default_rng(0))  # says now what does not suit these crops
    drawn, class_weights = balance_classes(data, seed, **balance)
    rz.distribute.check_batches(len(drawn), record.batch_size)
    model = build(data, pixels)
    if keep_head(model, weights, data, record) and head_epochs is None:
        rounds = [round_ for round_ in rounds if round_.folder != ROUND_FOLDERS[0]] or rounds
    for round_ in rounds:
        rz.models.apply_freeze(model, round_.freeze)
    views = list_views(strengths, augment, data.crops.shape[1:], feature_views) if feature_views else None
    return Prepared(model, rounds, augment, views, pixels.offset, drawn, class_weights)


def build_for(data: Dataset, pixels: Pixels, num_class: int | None = None, **model: Any) -> "keras.Model":
    """Builds the classifier for a set.

    Args:
        data: The set: shape of crops, classes.
        pixels: What its training crops are like.
        num_class: Number of classes that is expected; None takes what there is.
        **model: Keywords of `models.build_classifier`.

    Raises:
        InputError: If the number of classes is not `num_class`, or the model cannot be built.
    """
    n_classes = len(data.classes)
    if num_class is not None and num_class != n_classes:
        raise InputError(f"--num_class {num_class}: {data.path} has {n_classes} classes; leave it out or mend the set.")
    return rz.models.build_classifier(data.crops.shape[1:], n_classes, pixels=pixels, several=data.several, **model)


def balance_classes(
    data: Dataset, seed: int, oversample: Sequence[str], oversample_to: int | None, class_weights: str
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training images of an epoch, with repeats, and the weight of every class in the loss `(K,)`."""
    train, targets = data.indices("train"), data.targets
    names = list(data.classes.LabelText)
    drawn = train[imbalance.oversample(targets[train], names, oversample, oversample_to, seed)]
    return drawn, imbalance.class_weights(imbalance.count_labels(targets[drawn]), class_weights)


def warn_of_changes(run_path: Path, record: TrainOptions) -> None:
    """Says which options that shape the input of a network differ from those of the run it comes from."""
    before = load_options("train", run_path / "opts.toml")
    for name in ("scaling", "stabilise", "im_size", "stem"):
        was, now = getattr(before, name), getattr(record, name)
        if was != now:
            print(f"warning: --{name} was {was} in {run_path} and is {now}; --opts {run_path}/opts.toml keeps it.")


def keep_head(model: "keras.Model", weights: str, data: Dataset, record: TrainOptions) -> bool:
    """Takes the head of a run's model over where its classes are those of the set; says aloud what is done."""
    path = Path(weights)
    if path.suffix != ".keras" or not path.is_file():
        return False
    run_path = find_run(path)
    before = list(read_label_table(run_path / "classes.csv").LabelText) if run_path else None
    if run_path:
        warn_of_changes(run_path, record)
    else:
        print(f"{path} lies in no run, so its classes are taken for those of the set.")
    same = before is None or before == list(data.classes.LabelText)
    if same and rz.models.load_head_weights(model, path):
        print(f"{path}: backbone and head are trained further.")
        return True
    gone = "" if before is None else f"; it knew {', '.join(before[:12])}{', ...' if len(before) > 12 else ''}"
    print(
        f"{path}: the backbone is trained further, its head is replaced, because the classes or the head differ{gone}."
    )
    return False
