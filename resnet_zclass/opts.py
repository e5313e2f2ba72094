"""The options of every command: one frozen dataclass each; defaults < `--opts` preset or file < flags.

A preset or options file is TOML. A file without tables holds the options of whichever command reads it (so a
run's own `opts.toml` can be given back to `train`). A file with tables holds `train`'s options at its top and
those of `simulate`, `make_dataset`, ... in a table of that name; a command without a table takes its defaults.
"""

import contextlib
import dataclasses
import difflib
import io
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
import tyro

from resnet_zclass.errors import InputError
from resnet_zclass.ranges import check_ranges

PRESETS_PATH = Path(__file__).parent / "presets"
DEFAULT_PRESET = "demo"

Options = TypeVar("Options")


def _alias(name: str) -> Any:
    return tyro.conf.arg(aliases=[f"--{name}"])


@dataclasses.dataclass(frozen=True)
class SimulateOptions:
    """Simulates fluorescent beads at known z: a labelled set of crops, and stacks to find beads in."""

    data_path: str = ""
    """Folder of the set to write, for instance train_data/NAME."""
    source_path: str = ""
    """Folder of whole stacks (one TIFF per field of view) to write as well; none if empty."""
    planes: int = 39
    """Number of z planes (classes), centred on the focus found."""
    z_step_um: float = 0.1
    """Distance of the planes in um."""
    crop_px: int = 32
    """Side of a crop in pixels."""
    photons: tuple[float, float] = (2000.0, 10000.0)
    """Photons detected from a bead in one image: least and most, drawn log-uniformly."""
    background: tuple[float, float] = (5.0, 20.0)
    """Background photons per pixel: least and most, drawn uniformly."""
    per_class: int = 250
    """Crops per plane, each of a bead of its own."""
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Shares of train, val and test; they sum to 1."""
    shift_px: float = 2.0
    """Beads lie up to this far off the centre of their crop, in x and in y, in pixels."""
    na: float = 1.2
    """Numerical aperture of the objective."""
    wavelength_um: float = 0.6
    """Emission wavelength in um."""
    index: float = 1.33
    """Refractive index of the medium."""
    pixel_um: float = 0.1
    """Size of a pixel in the sample, in um."""
    aberrations: tuple[str, ...] = ("primary spherical=0.7",)
    """Zernike aberrations as "NAME=RADIANS" (rms, Noll). Without any, +z and -z look alike and cannot be told apart."""
    bead_um: float = 0.1
    """Diameter of the beads in um."""
    camera_offset: float = 100.0
    """Camera counts without light."""
    camera_gain: float = 1.0
    """Camera counts per detected photon."""
    read_noise: float = 1.0
    """Read noise of the camera in photons (rms)."""
    n_fields: int = 2
    """Stacks to write to --source_path."""
    field_px: int = 512
    """Side of a field of view in pixels, at least 3 crops."""
    beads_per_field: int = 30
    """Beads in a field of view."""
    z_spread_um: float = 0.0
    """Beads of a field lie up to this far above or below the plane of the others, in um."""
    ceiling_crops: int = 260
    """Test crops on which the best possible accuracy with unknown position and brightness is computed; 0: none."""
    seed: int = 0
    """Seed of everything that is drawn."""
    overwrite: bool = False
    """Replace what is there."""


@dataclasses.dataclass(frozen=True)
class MakeDatasetOptions:
    """Makes a labelled set of crops from multi-frame TIFF stacks of beads."""

    source_path: tuple[str, ...] = ()
    """TIFF files, or folders of them."""
    data_path: str = ""
    """Folder of the set to write, for instance train_data/NAME."""
    layout: Literal["stack", "class"] = "stack"
    """stack: a TIFF is one field of view, its pages are z planes. class: a TIFF is one z plane, its pages are crops."""
    crop_px: int = 32
    """Side of a crop in pixels; larger pages of the layout class are cut to their middle."""
    planes: int = 39
    """Number of z planes (classes); in the layout class, the files are the classes."""
    z_step_um: float | None = None
    """Distance of the planes in um; read from the TIFF's metadata if not given."""
    focus: Literal["absolute", "relative"] = "absolute"
    """absolute: a class is a plane of the stack, round the beads' median focus. relative: a class is a distance from
    the bead's own focus, found by a fit of its brightness along z."""
    spots: str = ""
    """CSV of bead positions (columns y,x in pixels, or TrackMate's POSITION_Y, POSITION_X) instead of detection; with
    several stacks also a column source with the file's name."""
    min_distance_px: float | None = None
    """Beads nearer than this to each other are refused; default 0.7 crops."""
    split: Literal["group", "region", "random"] = "group"
    """group: by bead. region: by part of the field of view. random: by image (leaks; for comparison only)."""
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of train, val and test; they sum to 1."""
    train_num: int | None = None
    """Training images per class, instead of fractions."""
    val_num: int | None = None
    """Validation images per class, instead of fractions; the rest is test."""
    group_regex: str = ""
    """Regular expression; what it finds in a file's name is the group of all its crops (first bracket, else all)."""
    seed: int = 0
    """Seed of the split."""
    overwrite: bool = False
    """Replace what is there."""


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Trains a classifier in one or two rounds and evaluates it."""

    data_path: str = "./train_data/demo"
    """Folder of the set. The default one is simulated if it is not there."""
    save_logs_path: Annotated[str, _alias("save_checkpoint_path")] = "./logs"
    """Folder of runs."""
    run_name: str = ""
    """Name of this run's folder; default the model's name."""
    model_name: str = "ResNet20"
    """ResNet20 (any 6n+2: ResNet8, ResNet14, ...), ResNet50, or another name of keras.applications."""
    weights: Annotated[str, _alias("weights_path")] = "none"
    """Weights of the backbone to start from: imagenet, none, or a file."""
    im_size: int | None = None
    """Side in pixels to which the model resizes crops; default as they are."""
    num_class: int | None = None
    """Number of classes; counted from the data if not given, else checked against them."""
    stem_stride: int = 2
    """Stride of the first convolution of the small ResNets: 1 as published, 2 for less than half the time."""
    scaling: Literal["image", "set", "range"] = "set"
    """How pixels are normalised in the model. image: every crop by its own mean and spread. set: by those of the
    training set. range: the training set's range to 0..255 and the backbone's ImageNet scaling."""
    stabilise: bool = True
    """Take the square root of pixels first, which makes photon noise even (scaling image and set)."""
    hidden: int = 1024
    """Units of the hidden dense layer of the head; 0: none."""
    freeze: str = "none"
    """What round 2 keeps frozen: none, head_only, last_stage, stem_head, or the name of the first layer to train."""
    epochs: int = 30
    """Epochs of a round at most. Round 1 (backbone frozen) is left out where nothing is pretrained."""
    head_epochs: int | None = None
    """Epochs of round 1, if other than --epochs."""
    batch_size: int = 16
    """Crops per step."""
    optimizer: str = "rmsprop"
    """Any Keras optimizer by name."""
    learning_rate: float = 1e-3
    """Learning rate of round 1."""
    fine_tune_learning_rate: float | None = None
    """Learning rate of round 2; default that of round 1."""
    schedule: Literal["plateau", "smooth", "cosine"] = "plateau"
    """plateau: times 0.2 after half the patience without a better monitor. smooth: times --lr_decay every epoch.
    cosine: down to zero along half a cosine."""
    lr_decay: float = 0.95
    """Factor of the learning rate per epoch of the smooth schedule."""
    feature_views: int = 4
    """Augmented views of every crop whose features are stored for round 1, while the backbone is frozen."""
    patience: int = 10
    """Epochs without a better monitor before a round stops."""
    monitor: str = "val_loss"
    """What the best checkpoint, the early stop and the plateau watch."""
    soft_labels: float = 0.0
    """Width in planes of Gaussian soft labels of a z job; 0: plain labels."""
    flip: bool = False
    """Augment: mirror left-right and up-down. Wrong for a PSF that leans to one side with z."""
    turn: bool = False
    """Augment: turn by multiples of 90 degrees. Wrong for an astigmatic PSF, where it swaps +z and -z."""
    shift_px: int = 1
    """Augment: shift by up to this many pixels."""
    thin: float | None = None
    """Augment: keep each photon with a probability drawn between this and 1; 1: off. Default 0.3 where pixels are
    integers, which are taken for photons whatever the camera's gain, else off."""
    camera_offset: float | None = None
    """Camera counts without light; default the darkest pixels of the training set."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    deterministic: bool = False
    """Use only deterministic operations."""
    folds: int = 0
    """Cross-validation: train and test this many times, each on another share of the groups; 0: off."""
    evaluate: bool = True
    """Evaluate the test split at the end."""
    overwrite: bool = False
    """Replace a run that is there."""


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Evaluates a run on a split of its data, beside a classical baseline."""

    load_logs_path: Annotated[str, _alias("load_checkpoint_path")] = ""
    """Folder of the run."""
    data_path: str = ""
    """Folder of the set; default the one the run was trained on."""
    split: Literal["train", "val", "test"] = "test"
    """Split to evaluate."""
    batch_size: int = 64
    """Crops per step."""


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Predicts the class of new images: one row per image, page or bead."""

    inputs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Images, multi-frame TIFFs, or folders of them."""
    load_logs_path: Annotated[str, _alias("load_checkpoint_path")] = ""
    """Folder of the run."""
    pred_save_path: str = "predictions.csv"
    """CSV file to write."""
    pred_save_name: str = ""
    """NumPy file (N, classes) of the probabilities to write as well."""
    spots: str = ""
    """CSV of bead positions (columns y,x in pixels) at which to cut crops instead of finding beads."""
    batch_size: int = 64
    """Crops per step."""
    overwrite: bool = False
    """Replace what is there."""


COMMANDS: dict[str, type] = {
    "simulate": SimulateOptions,
    "make_dataset": MakeDatasetOptions,
    "train": TrainOptions,
    "evaluate": EvaluateOptions,
    "predict": PredictOptions,
}


def parse_options(name: str, argv: Sequence[str]) -> Any:
    """Returns the options of command `name`: defaults, then those of `--opts`, then the flags in `argv`.

    Raises:
        InputError: For an unknown option, a value of the wrong type, or an unknown preset or file.

    >>> parse_options("simulate", ["--planes", "13", "--z-step-um", "0.3"]).planes
    13
    >>> parse_options("simulate", ["--opts", "demo", "--photons", "500", "900"]).photons
    (500.0, 900.0)
    """
    source, argv = _take_opts(list(argv))
    default = load_options(name, source) if source else COMMANDS[name]()
    options = _parse(name, argv, default)
    check_ranges(dataclasses.asdict(options))
    return options


def load_options(name: str, source: str | Path) -> Any:
    """Returns the options of command `name` that a preset or TOML file sets; defaults where it is silent.

    Raises:
        InputError: If there is no such preset or file, or it holds what the command does not take.

    >>> load_options("simulate", "demo").planes
    13
    """
    path = _preset_or_file(str(source))
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file: {error}") from error
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    unknown = sorted(set(tables) - set(COMMANDS))
    if unknown:
        raise InputError(f"{path}: there is no command {unknown[0]!r}; tables are named after {', '.join(COMMANDS)}.")
    top = {key: value for key, value in content.items() if key not in tables}
    values = tables.get(name, top if name == "train" or not tables else {})
    known = [field.name for field in dataclasses.fields(COMMANDS[name])]
    for key in values:
        if key not in known:
            guess = difflib.get_close_matches(key, known, n=1)
            raise InputError(f"{path}: {name} has no option {key!r}" + (f"; is {guess[0]} meant?" if guess else "."))
    try:
        return _parse(name, _as_flags(values), COMMANDS[name]())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def save_options(path: str | Path, options: Any) -> None:
    """Writes options as TOML that `load_options` reads back. An option that is None is left out."""
    values = {key: value for key, value in dataclasses.asdict(options).items() if value is not None}
    Path(path).write_text(tomli_w.dumps(values), encoding="utf-8")


def preset_names() -> list[str]:
    """Names of the presets that come with the package.

    >>> "demo" in preset_names()
    True
    """
    return sorted(path.stem for path in PRESETS_PATH.glob("*.toml"))


def require(options: Any, *names: str) -> None:
    """Raises `InputError` for the first of the options `names` that is empty."""
    for name in names:
        if getattr(options, name) in ("", None, ()):
            raise InputError(f"--{name} is missing.")


def _take_opts(argv: list[str]) -> tuple[str, list[str]]:
    """Splits `--opts [NAME]` off `argv`; a bare `--opts` means the default preset."""
    for i, word in enumerate(argv):
        if word == "--opts=":
            raise InputError(f"--opts= names no preset or file; the presets are {', '.join(preset_names())}.")
        if word.startswith("--opts="):
            return word.removeprefix("--opts="), argv[:i] + argv[i + 1 :]
        if word == "--opts":
            bare = i + 1 == len(argv) or argv[i + 1].startswith("--")
            return (DEFAULT_PRESET if bare else argv[i + 1]), argv[:i] + argv[i + (1 if bare else 2) :]
    return "", argv


def _preset_or_file(source: str) -> Path:
    if source in preset_names():
        return PRESETS_PATH / f"{source}.toml"
    if not Path(source).is_file():
        raise InputError(
            f"--opts: {source!r} is neither a file nor a preset; the presets are {', '.join(preset_names())}."
        )
    return Path(source)


def _as_flags(values: dict[str, Any]) -> list[str]:
    """Words of a command line that set `values`, so that files and flags are checked by one mechanism."""
    words = []
    for key, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{key}" if value else f"--no_{key}")
        else:
            words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return words


def _parse(name: str, argv: list[str], default: Any) -> Any:
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                COMMANDS[name],
                prog=f"resnet-zclass {name}",
                description=(
                    f"{COMMANDS[name].__doc__}\n\n--opts PRESET|FILE.toml sets options from a preset "
                    f"({', '.join(preset_names())}) or a file; flags win over it. --debug shows tracebacks."
                ),
                args=argv,
                default=default,
                use_underscores=True,
            )
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise InputError(_message_in(box.getvalue())) from None


def _message_in(box: str) -> str:
    """The message in tyro's box of several lines, as one line, with its guess of what was meant."""
    rows = [row.strip("│ ") for row in box.splitlines() if row[:1] not in "╭╰"]
    rules = [i for i, row in enumerate(rows) if set(row) == {"─"}] or [len(rows)]
    message = " ".join(rows[: rules[0]])
    if len(rules) > 1 and rows[rules[0] + 1 :][:1] == ["Perhaps you meant:"]:
        message = f"{message.rstrip('.')}. Perhaps you meant {rows[rules[0] + 2]}."
    return message or "bad usage; see --help."
