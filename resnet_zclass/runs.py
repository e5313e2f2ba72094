"""A run: the folder that training leaves and that evaluate and predict read everything from."""

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader as lazy
import numpy as np

import resnet_zclass as rz
from resnet_zclass.environment import describe_environment
from resnet_zclass.errors import InputError
from resnet_zclass.files import hash_file, read_json, whole_file, whole_folder
from resnet_zclass.labels import READ_TEXT
from resnet_zclass.options import TrainOptions
from resnet_zclass.opts import load_options, pick, save_options
from resnet_zclass.provenance import hash_rows, read_record, write_record
from resnet_zclass.splits import SPLITS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import keras

    from resnet_zclass.loader import Dataset

pd = lazy.load("pandas")

MODEL_FILE = "model.keras"
SPLIT_FILE = "split.csv"  # which images the run was trained, validated and is to be tested on
CROPS_FILE = "crops.json"  # what its crops are like
FOLDS_FILE = "folds.json"
NEEDED = (MODEL_FILE, "opts.toml", "classes.csv", SPLIT_FILE, CROPS_FILE)  # of a finished run
ENVIRONMENT_FILE = "environment.json"  # what software and machine it was trained with
CALIBRATION_FILE = "calibration.json"  # what its split val taught of how far to trust it
FAMILIAR_FILE = "familiar.npz"  # what the beads that it was trained on look like
OWN = ["label", "group", "digest"]  # what must not have changed about an image
CLASS_COLUMNS = ("LabelText", "LabelInteger", "z_um")
ROUND_FOLDERS = ("origin_model", "fine_tune_model")  # round 1, round 2


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: Its folder.
        options: What it was trained with.
        classes: Table of `LabelText`, `LabelInteger`, `z_um`, in the order of the network's outputs; with several
            labels per image also `threshold`.
        dtype: Bit depth of its crops.
        crop_shape: `(H, W, C)` of its crops.
        resized: Whether images are brought to that size, rather than have it.
        cut_out: Whether its crops were cut out of larger images, as those of beads are.
        pixel_um: Side of a pixel of these in um; None if that is not known.
    """

    path: Path
    options: TrainOptions
    classes: "pd.DataFrame"
    dtype: str
    crop_shape: tuple[int, int, int]
    resized: bool
    cut_out: bool
    pixel_um: float | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of the network's outputs."""
        return list(self.classes.LabelText)

    @property
    def z_um(self) -> np.ndarray | None:
        """The z of every class in um, float array `(K,)`; None if classes are no planes or the step is unknown."""
        z_um = self.classes.z_um.to_numpy(float)
        return None if np.isnan(z_um).any() else z_um

    @property
    def thresholds(self) -> np.ndarray | None:
        """Probability from which a class is predicted, float array `(K,)`; None where images have one label."""
        return self.classes.threshold.to_numpy(float) if "threshold" in self.classes else None

    @functools.cached_property
    def calibration(self) -> dict[str, float] | None:
        """What split val taught, as `train.calibrate` says; None if there was none, or the run is an old one."""
        path = self.path / CALIBRATION_FILE
        try:
            found = read_json(path) if path.is_file() else None
            return found and {key: float(found[key]) for key in ("set_threshold", *found)}
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise InputError(f"{path} is damaged ({error}); remove it to predict without it.") from error

    @functools.cached_property
    def familiar(self) -> "rz.unlike.Familiar | None":
        """What its beads look like; None if its images are none, or the run is an old one."""
        path = self.path / FAMILIAR_FILE
        if not path.is_file():
            return None
        try:
            familiar = rz.unlike.load_familiar(path)
            familiar.score(np.zeros((1, *self.crop_shape), np.float32))  # that of other crops fails here
            return familiar
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{path} is damaged ({error}); remove it to predict without it.") from error

    def read_set(self, data_path: str | Path, label_table: str = "") -> "Dataset":
        """Reads another set as the run's own was read: channels, size, classes; all of it is test if unsplit."""
        changes = {"fractions": (0.0, 0.0, 1.0), "size_px": None, "group": "group", "group_regex": ""}
        changes["label_table"] = label_table
        if self.thresholds is not None:
            changes["class_names"] = str(self.path / "classes.csv")
        if self.resized:
            changes |= {"size_px": self.crop_shape[0], "always_resize": True}
        return recognise(self.path, rz.loader.read_dataset(data_path, **(choose_reading(self.options) | changes)))

    def read_own_set(self) -> "Dataset":
        """Reads the set that the run was trained on, split as it was then."""
        return self.restore_split(rz.loader.read_dataset(self.options.data_path, **choose_reading(self.options)))

    def load_model(self) -> "keras.Model":
        """Loads the run's `model.keras`: raw crops `(N, H, W, C)` in, probabilities `(N, K)` out."""
        model = rz.models.load_model(self.path / MODEL_FILE)
        known = read_record(self.path).get("model_sha256")
        if known and known != hash_file(self.path / MODEL_FILE):
            print(f"warning: {self.path / MODEL_FILE} is not the one that its training wrote.", file=sys.stderr)
        if model.output_shape[-1] != len(self.classes):
            raise InputError(
                f"{self.path / 'classes.csv'} has {len(self.classes)} classes, the model {model.output_shape[-1]}; one "
                "of them is another run's."
            )
        return model

    def restore_split(self, data: "Dataset") -> "Dataset":
        """The run's own set, split as it was when the run was trained; a fold has a split of its own.

        Raises:
            InputError: If the set has changed since: an image was trained on, but now is to be tested on, or the like.
        """
        path = self.path / SPLIT_FILE
        known = read_split(path).set_index(["file", "page"])
        n_gone = len(known) - len(data.items)
        try:
            known = known.loc[list(zip(data.items.file, data.items.page, strict=True))]
        except KeyError as error:
            raise InputError(f"{path} does not know all images of {data.path}; the set has changed since.") from error
        splits, facts = known.split.to_numpy(), known[OWN].to_numpy()
        if len(splits) != len(data.items):
            raise InputError(f"{path} is damaged: an image has several rows; train the run again.")
        if (facts != data.items[OWN].to_numpy(str)).any():
            raise InputError(f"{data.path} has changed since {self.path} was trained on it; train again.")
        if n_gone:
            print(f"warning: {n_gone} images that the run knows are gone from {data.path}.")
        return data.with_splits(splits)

    def list_views(self) -> "Sequence[Callable]":
        """The views of a crop that training took for equal, as of `views.symmetric_views`.

        Raises:
            InputError: If there is but the crop itself.
        """
        views = rz.views.symmetric_views(self.options.flip, self.options.turn, self.crop_shape)
        if len(views) < 2:
            raise InputError(
                f"--average_views: {self.path} was trained without --flip and --turn, so views of a crop are not equal."
            )
        return views

    def check_crops(self, dtype: np.dtype, name: str | Path) -> None:
        """Raises `InputError` if crops of another bit depth than the run's come from `name`."""
        if np.dtype(dtype).name != self.dtype:
            raise InputError(
                f"{name} is {np.dtype(dtype).name}; the run was trained on {self.dtype} and reads no other."
            )


def read_run(path: str | Path) -> Run:
    """Reads a run's options and classes; the model is loaded when asked for.

    Raises:
        InputError: If the folder is missing or is not that of a finished run.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; the folder of a run is wanted.")
    for name in NEEDED:
        if not (path / name).is_file():
            raise InputError(f"{path} has no {name}; the folder of a finished run is wanted.")
    classes = read_classes(path)
    options = load_options("train", path / "opts.toml")
    try:
        facts = read_json(path / CROPS_FILE)
        crop_shape = tuple(map(int, facts["crop_shape"]))
        if len(crop_shape) != 3:
            raise ValueError(f"crop_shape {crop_shape}")
        resized, cut_out = bool(facts["resized"]), bool(facts["cut_out"])
        pixel_um = facts.get("pixel_um") and float(facts["pixel_um"])
        return Run(
            path,
            options,
            classes,
            np.dtype(facts["dtype"]).name,
            crop_shape,
            resized,
            cut_out,
            pixel_um,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path / CROPS_FILE} is damaged: {error}") from error


def read_classes(path: Path) -> "pd.DataFrame":
    """Reads the classes in the folder of a run, as `Run` has them."""
    table_path = path / "classes.csv"
    try:
        classes = pd.read_csv(table_path, dtype={"LabelText": str}, **READ_TEXT)
        columns = [*CLASS_COLUMNS, *(["threshold"] if "threshold" in classes else [])]
        classes = classes[columns].astype({"LabelInteger": int, "z_um": float})
        if "threshold" in classes and not classes.threshold.astype(float).between(0, 1).all():
            raise ValueError("a threshold does not lie in 0..1")
    except (KeyError, ValueError, OverflowError) as error:
        raise InputError(f"{table_path} is not a table of {', '.join(CLASS_COLUMNS)}: {error}") from error
    if classes.empty or classes.LabelText.isna().any() or classes.LabelText.duplicated().any():
        raise InputError(f"{table_path} is damaged: LabelText is empty or stands twice.")
    return classes


def read_split(path: Path) -> "pd.DataFrame":
    """Reads which images a run knows, and the split of each.

    Raises:
        InputError: If the table cannot be read, lacks a column, or a split is none.
    """
    try:
        known = pd.read_csv(path, dtype=dict.fromkeys(("file", "split", *OWN), str) | {"page": int}, **READ_TEXT)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); train the run again.") from error
    if not {"file", "page", "split", *OWN} <= set(known):
        raise InputError(f"{path} wants the columns file, page, {', '.join(OWN)}, split; train the run again.")
    if not known.split.isin(SPLITS).all():
        raise InputError(f"{path} is damaged: a split is none of {', '.join(SPLITS)}; train the run again.")
    return known


def recognise(path: Path, data: "Dataset") -> "Dataset":
    """Gives the images of a run's own, whatever their names, the split they had: what was trained on is no test.

    Args:
        path: Folder of the run.
        data: A set. Where its folders make the split, that stays as it is, with a warning.
    """
    own = data.items.digest.map(read_split(path / SPLIT_FILE).groupby("digest").split.first())
    moved = own.notna() & (own != data.items.split)
    if moved.any() and data.several:
        print(f"note: {moved.sum()} images of {data.path} are known to {path} and keep the split they had there.")
        return data.with_splits(own.fillna(data.items.split).to_numpy())
    seen = ((data.items.split == "test") & own.isin(["train", "val"])) | (
        (data.items.split == "val") & (own == "train")
    )
    if seen.any():
        print(f"warning: {path} was trained on {seen.sum()} images that {data.path} holds back; results flatter.")
    return data


def find_run(model_path: str | Path) -> Path | None:
    """Folder of the run that a model file lies in; None if it lies in none."""
    folders = Path(model_path).parents[:2] if Path(model_path).suffix == ".keras" else ()
    return next((folder for folder in folders if (folder / SPLIT_FILE).is_file()), None)


def choose_reading(options: TrainOptions) -> dict[str, Any]:
    """The options that say how a set is read, as the keywords of `loader.read_dataset`."""
    same = ("channels", "label_table", "class_names", "num_class", "group", "group_regex", "fractions", "seed")
    return pick(options, *same) | {"size_px": options.im_size}


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
    """Raises `InputError` if `path` holds a run with anything trained, unless to be overwritten, or something else."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / "opts.toml").is_file():
        raise InputError(f"{path} is not the folder of a run; choose another --run_name.")
    finished = (path / MODEL_FILE).exists() or (path / FOLDS_FILE).exists()
    if not overwrite and (finished or any(path.rglob("*.keras"))):
        if finished:
            raise InputError(f"{path} holds a finished run; choose another --run_name or give --overwrite.")
        raise InputError(
            f"{path} holds an unfinished run with checkpoints; --resume goes on with it, --overwrite begins anew."
        )


def start_run(path: Path, options: TrainOptions, data: "Dataset", is_fold: bool = False) -> None:
    """Makes the folder of a run and says there what it is trained on: options, classes, split, kind of crops.

    The folder is there as a whole or not at all. A run that is there already is removed; the caller has seen to it
    that it may be. The first fold makes the folder of the whole cross-validation too.
    """
    if is_fold and path.name == "fold_0":
        start_run(path.parent, options, data)
    check_free(path, overwrite=True)
    facts = {"dtype": data.crops.dtype.name, "crop_shape": list(data.crops.shape[1:]), "resized": data.resized}
    facts["cut_out"] = data.is_z
    if "pixel_um" in data.items and data.items.pixel_um.nunique(dropna=False) == 1:
        facts["pixel_um"] = float(data.items.pixel_um.iloc[0])
    with whole_folder(path, overwrite=True) as partial:
        save_options(partial / "opts.toml", options)
        write_classes(partial, data)
        data.items[["file", "page", *OWN, "split"]].to_csv(partial / SPLIT_FILE, index=False)
        (partial / CROPS_FILE).write_text(json.dumps(facts) + "\n")
        (partial / ENVIRONMENT_FILE).write_text(json.dumps(describe_environment(), indent=1) + "\n")


def save_model(path: Path, model: "keras.Model", data: "Dataset", weights: str = "none") -> None:
    """Writes the model of a run, which finishes it, and what it was made from."""
    with whole_file(path / MODEL_FILE) as partial:
        model.save(partial)
        made_from = {"model_sha256": hash_file(partial), "data_sha256": hash_data(data)}
        if Path(weights).is_file():
            made_from["weights_sha256"] = hash_file(weights)
        write_record(path, **made_from)  # before the model has its name, with which the run is finished


def hash_data(data: "Dataset") -> str:
    """SHA-256 of a set: of the pixels, labels, groups and splits of its images, whatever their names and order."""
    return hash_rows({name: data.items[name] for name in (*OWN, "split")})


def write_classes(path: Path, data: "Dataset", thresholds: np.ndarray | None = None) -> None:
    """Writes the classes of a run; with several labels per image also `thresholds` `(K,)`, 0.5 until they are known."""
    classes = data.classes[list(CLASS_COLUMNS)]
    if data.several:
        classes = classes.assign(threshold=0.5 if thresholds is None else thresholds)
    with whole_file(path / "classes.csv") as partial:
        classes.to_csv(partial, index=False)
