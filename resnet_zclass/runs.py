"""A run: the folder that training leaves and that evaluate and predict read everything from."""

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

from resnet_zclass.errors import InputError
from resnet_zclass.loader import SPLITS, Dataset
from resnet_zclass.opts import TrainOptions, load_options, save_options

if TYPE_CHECKING:
    import keras

pd = lazy.load("pandas")

MODEL_FILE = "model.keras"
SPLIT_FILE = "split.csv"
FOLDS_FILE = "folds.json"
ROUND_FOLDERS = ("origin_model", "fine_tune_model")  # round 1, round 2


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: Its folder.
        options: What it was trained with.
        classes: Table of `LabelText`, `LabelInteger`, `z_um`, in the order of the network's outputs.
    """

    path: Path
    options: TrainOptions
    classes: "pd.DataFrame"

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of the network's outputs."""
        return list(self.classes.LabelText)

    @property
    def z_um(self) -> np.ndarray | None:
        """The z of every class in um, float array `(K,)`; None if classes are no planes or the step is unknown."""
        z_um = self.classes.z_um.to_numpy(float)
        return None if np.isnan(z_um).any() else z_um

    def load_model(self) -> "keras.Model":
        """Loads the run's `model.keras`: raw crops `(N, H, W, C)` in, probabilities `(N, K)` out."""
        import resnet_zclass as rz

        model = rz.models.load_model(self.path / MODEL_FILE)
        if model.output_shape[-1] != len(self.classes):
            raise InputError(
                f"{self.path / 'classes.csv'} has {len(self.classes)} classes, the model {model.output_shape[-1]}."
            )
        return model

    def restore_split(self, data: Dataset) -> Dataset:
        """The set, split as it was for this run: a fold of a cross-validation has a split of its own."""
        path = self.path / SPLIT_FILE
        if not path.is_file():
            return data
        try:
            known = pd.read_csv(path).set_index(["file", "page"]).split
            splits = known.loc[list(zip(data.items.file, data.items.page, strict=True))]
        except (KeyError, ValueError, AttributeError) as error:
            raise InputError(f"{path} does not know all images of {data.path}; the set has changed since.") from error
        if len(splits) != len(data.items) or not set(splits) <= set(SPLITS):
            raise InputError(f"{path} is damaged: every image wants one row with split train, val or test.")
        return data.with_splits(splits.to_numpy())


def read_run(path: str | Path) -> Run:
    """Reads a run's options and classes; the model is loaded when asked for.

    Raises:
        InputError: If the folder is missing or is not that of a finished run.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; --load_logs_path wants the folder of a run.")
    for name in (MODEL_FILE, "opts.toml", "classes.csv"):
        if not (path / name).is_file():
            raise InputError(f"{path} has no {name}; --load_logs_path wants the folder of a finished run.")
    try:
        classes = pd.read_csv(path / "classes.csv", dtype={"LabelText": str})
        classes = classes[["LabelText", "LabelInteger", "z_um"]].astype({"LabelInteger": int, "z_um": float})
    except (KeyError, ValueError) as error:
        raise InputError(f"{path / 'classes.csv'} is not a table of LabelText, LabelInteger, z_um: {error}") from error
    if classes.LabelText.isna().any() or classes.LabelText.duplicated().any():
        raise InputError(f"{path / 'classes.csv'} is damaged: LabelText is empty or stands twice.")
    return Run(path, load_options("train", path / "opts.toml"), classes)


def name_run(save_logs_path: str, run_name: str) -> Path:
    """The folder of a run.

    Raises:
        InputError: If `run_name` is not a plain name of one folder, or `save_logs_path` is a file.

    >>> name_run("logs", "mine").as_posix()
    'logs/mine'
    """
    if run_name in (".", "..") or Path(run_name).name != run_name:
        raise InputError(f"--run_name must be the name of a folder, without a path. Received: {run_name}.")
    for folder in (Path(save_logs_path), *Path(save_logs_path).parents):
        if folder.is_file():
            raise InputError(f"--save_logs_path {save_logs_path}: {folder} is a file, not a folder.")
    return Path(save_logs_path) / run_name


def check_free(path: Path, overwrite: bool = False) -> None:
    """Raises `InputError` if a finished run is at `path` and is not to be overwritten, or something else is."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / "opts.toml").is_file():
        raise InputError(f"{path} is not the folder of a run; choose another --run_name.")
    if ((path / MODEL_FILE).exists() or (path / FOLDS_FILE).exists()) and not overwrite:
        raise InputError(f"{path} holds a finished run; choose another --run_name or give --overwrite.")


def start_run(path: Path, options: TrainOptions, data: Dataset, is_fold: bool = False) -> None:
    """Makes the folder of a run with what it is to be trained on: `opts.toml`, `classes.csv`, a fold's `split.csv`.

    A run that is there already is removed. The first fold makes the folder of the whole cross-validation too.
    """
    if is_fold and path.name == "fold_0":
        start_run(path.parent, options, data)
    check_free(path, overwrite=True)
    if path.exists() and not (path / MODEL_FILE).exists() and any(path.iterdir()):
        print(f"{path} holds an unfinished run, which begins anew.")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    save_options(path / "opts.toml", options)
    data.classes[["LabelText", "LabelInteger", "z_um"]].to_csv(path / "classes.csv", index=False)
    if is_fold:
        data.items[["file", "page", "split"]].to_csv(path / SPLIT_FILE, index=False)
