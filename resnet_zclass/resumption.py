"""Whether a run was interrupted and may be gone on with: it is there, and its options and its data are the same."""

import dataclasses
from pathlib import Path

import lazy_loader as lazy
import numpy as np

import resnet_zclass as rz
from resnet_zclass.errors import InputError
from resnet_zclass.files import whole_file
from resnet_zclass.loader import Dataset
from resnet_zclass.options import TrainOptions
from resnet_zclass.opts import load_options, save_options
from resnet_zclass.runs import (
    CROPS_FILE,
    FOLDS_FILE,
    MODEL_FILE,
    OWN,
    ROUND_FOLDERS,
    SPLIT_FILE,
    check_free,
    read_classes,
    read_split,
)

pd = lazy.load("pandas")

# Options that may be others when a run goes on: they do not change what is trained. The data are compared themselves.
FREE_OPTIONS = ("data_path", "save_logs_path", "run_name", "evaluate", "preview", "resume", "overwrite")
FREE_OPTIONS += ("multiGPU", "gpus", "workers", "join_timeout_s", "profile")


def claim_run(path: Path, options: TrainOptions) -> bool:
    """Whether there is a run to go on with; if there is none, its folder is free.

    Args:
        path: Folder of the run.
        options: Those of `train`, with what depends on the set filled in.

    Raises:
        InputError: If the folder is another's, or holds a run that was not asked for or has other options.
    """
    if options.resume and (options.overwrite or options.preview):
        other = "overwrite" if options.overwrite else "preview"
        raise InputError(f"--resume goes on with a run, --{other} begins one; give one of them.")
    if options.resume and is_begun(path, options):
        return True
    check_free(path, options.overwrite and not options.preview)
    if options.resume:
        print(f"note: nothing is trained in {path} yet, so the run begins.")
    return False


def is_begun(path: Path, options: TrainOptions) -> bool:
    """Whether anything was trained in the folder of a run that may be gone on with.

    Raises:
        InputError: If something was, but with other options, or what belongs to a run is missing.
    """
    if not (path / "opts.toml").is_file() or not any(path.rglob("*.keras")):
        return False
    for name in ("classes.csv", SPLIT_FILE, CROPS_FILE):
        if not (path / name).is_file():
            raise InputError(f"{path} has no {name}, so it cannot be gone on with; --overwrite begins anew.")
    check_same_options(path, options)
    return True


def is_finished(path: Path) -> bool:
    """Whether a run, or all folds of one, is trained to its end."""
    last = FOLDS_FILE if any(path.glob("fold_*")) else MODEL_FILE  # what is written last
    return (path / last).is_file()


def clear_states(path: Path) -> None:
    """Removes the states of the rounds of a finished run, which nobody will go on from."""
    for name in ROUND_FOLDERS:
        rz.training_state.remove_states(path / name)


def check_same_options(path: Path, options: TrainOptions) -> None:
    """Raises `InputError` with the options that are others than those the run in `path` began with."""
    before = load_options("train", path / "opts.toml")
    changes = []
    for name in (field.name for field in dataclasses.fields(options) if field.name not in FREE_OPTIONS):
        was, now = getattr(before, name), getattr(options, name)
        measured = name == "camera_offset" and now is None
        if was != now and not measured:
            changes.append(f"--{name} was {_say(was)} and is {_say(now)}")
    if changes:
        raise InputError(f"{path} cannot be gone on with: {', '.join(changes)}. --overwrite begins anew.")


def check_same_data(path: Path, data: Dataset) -> None:
    """Raises `InputError` with what has changed about the images, their split or classes since the run began."""
    columns = ["file", "page", *OWN, "split"]
    known = read_split(path / SPLIT_FILE)[columns]
    found = data.items[columns].reset_index(drop=True)
    changes = []
    if not np.array_equal(known.to_numpy(str), found.to_numpy(str)):
        changes = _list_changes(known.set_index(["file", "page"]), found.set_index(["file", "page"]))
    if list(read_classes(path).LabelText) != list(data.classes.LabelText):
        changes.append("its classes or their order are others")
    if changes:
        raise InputError(
            f"{data.path} has changed since {path} began: {', '.join(changes)}. Bring it back; --overwrite begins anew."
        )


def note_data_path(path: Path, data_path: str) -> None:
    """Writes into a run where its data lie now, which may have moved since it began."""
    before = load_options("train", path / "opts.toml")
    if before.data_path != data_path:
        print(f"note: {path} was begun on {before.data_path} and goes on with the same images in {data_path}.")
        with whole_file(path / "opts.toml") as partial:
            save_options(partial, dataclasses.replace(before, data_path=data_path))


def _list_changes(known: "pd.DataFrame", found: "pd.DataFrame") -> list[str]:
    gone, new = known.index.difference(found.index), found.index.difference(known.index)
    changes = [f"{len(images)} images are {word}" for images, word in ((gone, "gone"), (new, "new")) if len(images)]
    same = known.index.intersection(found.index)
    words = {"label": "another label", "group": "another group", "digest": "other pixels", "split": "another split"}
    for column, word in words.items():
        before, now = (table.loc[same, column].to_numpy(str) for table in (known, found))
        if n := int((before != now).sum()):
            changes.append(f"{n} images have {word}")
    return changes or ["its images come in another order"]


def _say(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
