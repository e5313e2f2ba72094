"""What is wrong with a set, and how to mend it."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

import resnet_zclass as rz
from resnet_zclass.loader import Dataset
from resnet_zclass.pack import Subset
from resnet_zclass.splits import SPLITS

CHUNK = 2048  # crops that are looked at together
FEW_GROUPS = 10  # fewer than these in split train are few
SKEWED = 10  # times as many images of one class as of another
SATURATED_SHARE = 0.01  # of the pixels of a crop


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `"ok"`, `"note"`, `"warning"` (results will mislead) or `"error"` (training refuses).
        words: What was found.
        remedy: What to do about it; empty where there is nothing to do.
    """

    level: str
    words: str
    remedy: str = ""


def examine_set(data: Dataset) -> list[Finding]:
    """Everything that is known to go wrong with sets, checked one by one.

    Args:
        data: The set.

    Returns:
        What was found, in the order of `CHECKS`; something is said of every check.
    """
    return [finding for check in CHECKS for finding in check(data)]


def _check_splits(data: Dataset) -> Iterator[Finding]:
    sizes = {split: len(data.indices(split)) for split in SPLITS}
    told = ", ".join(f"{split} {n:,}" for split, n in sizes.items())
    if not sizes["train"]:
        remedy = "add a folder train, or make the set again with other --fractions; evaluate takes it as it is"
        yield Finding("error", f"no images to train on ({told})", remedy)
    elif not sizes["val"]:
        yield Finding("warning", f"no split val ({told})", "train takes part of train for it (--val_fraction)")
    elif not sizes["test"]:
        remedy = "make the set again with --fractions 0.7 0.15 0.15; else val is evaluated, which flatters"
        yield Finding("warning", f"no split test ({told})", remedy)
    else:
        yield Finding("ok", f"splits: {told}")


def _check_classes(data: Dataset) -> Iterator[Finding]:
    names, targets = data.classes.LabelText.to_numpy(), data.targets > 0.5
    whole = True
    for split in SPLITS:
        indices = data.indices(split)
        missing = names[targets[indices].sum(axis=0) == 0] if len(indices) else []
        if len(missing):
            whole = False
            words = f"{len(missing)} of {len(names)} classes have no image in {split}: {', '.join(missing[:5])}"
            level = "error" if split != "test" and not data.several else "warning"
            yield Finding(level, words, "add images of them, leave them out, or split with other --fractions")
    counts = targets[data.indices("train")].sum(axis=0)
    if len(counts) and counts.max() > SKEWED * max(counts.min(), 1):
        whole = False
        words = f"from {counts.min():,} to {counts.max():,} training images a class"
        yield Finding("note", words, "--oversample_to or --class_weights balanced; read balanced_accuracy or macro_f1")
    if whole:
        yield Finding("ok", f"{len(names)} classes, all in every split")


def _check_groups(data: Dataset) -> Iterator[Finding]:
    items, n = data.items, data.items["group"].nunique()
    torn = items.groupby("group").split.nunique() > 1
    if torn.any():
        words = f"{torn.sum():,} of {n:,} groups (beads, fields, experiments) stand in two splits: {torn.idxmax()}"
        yield Finding("warning", words, "make the set again with --split group, or --group_regex; results flatter")
    elif items["group"].is_unique and not data.is_z:
        words = "every image is a group of its own, so images of one cell or field may stand in two splits"
        yield Finding("warning", words, "say what belongs together: --group_regex, or the column group of manifest.csv")
    else:
        yield Finding("ok", f"{n:,} groups, none in two splits")
    n_train = items["group"][data.indices("train")].nunique()
    if 0 < n_train < FEW_GROUPS:
        words = f"only {n_train} groups to train on"
        yield Finding("note", words, "--folds 5 tests on all of them in turn; --weights psf where they are beads")


def _check_repeats(data: Dataset) -> Iterator[Finding]:
    items = data.items
    twice = items.duplicated("digest", keep=False)
    same = items[twice].groupby("digest")
    apart, contrary = (same[column].nunique() > 1 for column in ("split", "label"))
    if apart.any():
        one = items[items.digest == apart.idxmax()].iloc[0]
        words = f"{apart.sum():,} images stand in two splits, pixel by pixel: {one.file}, page {one.page}"
        yield Finding("warning", words, "remove the copies; results flatter")
    if contrary.any():
        one = items[items.digest == contrary.idxmax()].iloc[0]
        words = f"{contrary.sum():,} images have two different labels: {one.file}, page {one.page}"
        yield Finding("warning", words, "remove or relabel them")
    train, held = data.indices("train"), np.flatnonzero(items.split != "train")
    near = np.zeros(0, bool)
    if len(train) and len(held):
        near = rz.duplicates.find_near(Subset(data.crops, held), Subset(data.crops, train))
        near &= ~items.digest.iloc[held].isin(items.digest.iloc[train]).to_numpy()
    if near.any():
        one = items.iloc[held[near.argmax()]]
        words = f"{near.sum():,} images outside train are all but one in it: {one.file}, page {one.page}"
        yield Finding("warning", words, "put what was recorded together into one group; results may flatter")
    if not (apart.any() or contrary.any() or near.any()):
        yield Finding("ok", "no image stands in two splits, nor nearly so, nor under two labels")


def _check_pixels(data: Dataset) -> Iterator[Finding]:
    blank, full = [], []
    largest = np.iinfo(data.crops.dtype).max if data.crops.dtype.kind == "u" else np.inf
    for start in range(0, len(data.crops), CHUNK):
        crops = np.asarray(data.crops[np.arange(start, min(start + CHUNK, len(data.crops)))])
        pixels = crops.reshape(len(crops), -1)
        blank.append(pixels.max(axis=1) == pixels.min(axis=1))
        full.append((pixels == largest).mean(axis=1) > SATURATED_SHARE)
    whole = True
    for marks, words, remedy in (
        (blank, "are of one gray", "remove them"),
        (full, "are saturated, which hides z", "record with less light or a shorter exposure"),
    ):
        found = np.flatnonzero(np.concatenate(marks))
        if len(found):
            whole = False
            one = data.items.iloc[found[0]]
            yield Finding("warning", f"{len(found):,} images {words}: {one.file}, page {one.page}", remedy)
    if whole:
        height, width, channels = data.crops.shape[1:]
        told = f"{height} x {width} px, {channels} channel{'s' * (channels > 1)}, {data.crops.dtype}"
        yield Finding("ok", f"pixels: {told}; none of one gray, none saturated")


def _check_z(data: Dataset) -> Iterator[Finding]:
    if not data.is_z:
        return
    if data.z_step_um is None:
        yield Finding("warning", "the z step is not known, so results are in planes only", "make_dataset --z_step_um")
    else:
        z = data.classes.z_um.to_numpy(float)
        yield Finding("ok", f"planes {data.z_step_um:g} um apart, z {z.min():g} to {z.max():g} um")


CHECKS: tuple[Callable[[Dataset], Iterator[Finding]], ...] = (
    _check_splits,
    _check_classes,
    _check_groups,
    _check_repeats,
    _check_pixels,
    _check_z,
)
