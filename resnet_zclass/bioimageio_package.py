"""Packs a classifier for bioimage.io: weights, tests, cover and documentation in one zip file that describes itself.

The package follows the model specification 0.5 and is tested as bioimage.io does: its own weights must give its own
test outputs, in Keras and in ONNX Runtime.
"""

import contextlib
import dataclasses
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

import resnet_zclass as rz
from resnet_zclass.classifier import Classifier, spread
from resnet_zclass.engines import MAX_DIFFERENCE, METADATA_FILE, METADATA_KEY, ONNX_IN_PACKAGE
from resnet_zclass.errors import InputError
from resnet_zclass.extras import need
from resnet_zclass.files import read_json
from resnet_zclass.opts import require
from resnet_zclass.predict import predict_probabilities

KERAS_IN_PACKAGE = "model.keras"
N_TEST = 4  # crops in the test tensors
COVER_CROPS, COVER_PX = (2, 4), 250  # rows and columns, and the side of each: twice as wide as high
TITLE = re.compile(r"[A-Za-z0-9_+\- ()]{5,128}")


@dataclasses.dataclass(frozen=True)
class About:
    """What only its makers know of a model.

    Attributes:
        authors: `(name, affiliation, orcid)` of each; empty where not known.
        license: SPDX identifier.
        cite: `(text, DOI or URL)` of each.
        title: Name of the model; empty for that of the run.
        description: One sentence; empty for one from its classes.
        documentation: Markdown; empty for what the run knows.
    """

    authors: tuple[tuple[str, str, str], ...]
    license: str
    cite: tuple[tuple[str, str], ...] = ()
    title: str = ""
    description: str = ""
    documentation: str = ""


def read_about(options: Any) -> About:
    """Reads the options on authors, licence and texts of a package.

    Raises:
        InputError: If authors or licence are missing, or one of the options is not of its form.
    """
    require(options, "author", "license")
    try:
        need("bioimageio.spec.model.v0_5").LicenseId(options.license)
    except ValueError as error:
        raise InputError(
            f"--license must be an SPDX identifier such as CC-BY-4.0. Received: {options.license}."
        ) from error
    if options.title and not TITLE.fullmatch(options.title):
        raise InputError(f"--title must be 5 to 128 letters, digits, spaces or _+-(). Received: {options.title}.")
    text = ""
    if options.documentation:
        try:
            text = Path(options.documentation).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"--documentation {options.documentation} is not a text file in UTF-8.") from error
    cite = tuple(_split(entry, "--cite", 2, 2) for entry in options.cite)
    authors = tuple(_split(entry, "--author", 1, 3) for entry in options.author)
    return About(authors, options.license, cite, options.title, options.description, text)


def _split(entry: str, option: str, least: int, most: int) -> tuple[str, ...]:
    """The parts of an option that `;` divides, made up to `most` with empty ones.

    >>> _split("Jane Doe; Institute", "--author", 1, 3)
    ('Jane Doe', 'Institute', '')
    """
    parts = [part.strip() for part in entry.split(";")]
    if not least <= len(parts) <= most or not all(parts[:least]):
        raise InputError(f"{option} wants {least} to {most} parts divided by a semicolon. Received: {entry}.")
    return (*parts, *[""] * (most - len(parts)))


def write_package(classifier: Classifier, path: Path, metadata: Mapping[str, Any], about: About) -> None:
    """Writes a package and tests it.

    Args:
        classifier: What is packed.
        path: File to write; ends in `.zip`.
        metadata: What every export holds, here in `resnet_zclass.json` and in `config` of `rdf.yaml`.
        about: Authors, licence, texts.

    Raises:
        InputError: If the texts do not follow the specification, or the package does not pass its own test.
    """
    spec = need("bioimageio.spec")
    with tempfile.TemporaryDirectory() as folder:
        _write_parts(classifier, Path(folder), metadata, about)
        with _offline(about):
            try:
                description = _describe(classifier, Path(folder), metadata, about)
            except ValueError as error:
                raise InputError(f"the bioimage.io package cannot be made: {error}") from error
            spec.save_bioimageio_package(description, output_path=path)
    for line in check_package(path, about):
        print(line)


def check_package(path: Path, about: About | None = None) -> list[str]:
    """Validates a package and runs its own tests with each of its weights; returns what was tested, a line each.

    Raises:
        InputError: If anything of it fails.
    """
    with _offline(about):
        summary = need("bioimageio.core").test_description(path)
    lines = [f"bioimageio: {detail.status}: {detail.name}" for detail in summary.details]
    if summary.status != "passed":
        failed = [detail for detail in summary.details if detail.status != "passed"]
        why = "; ".join(f"{part.name}: {error.msg}" for part in failed for error in part.errors)
        raise InputError(f"the bioimage.io package is {summary.status}: {why}")
    return lines


@contextlib.contextmanager
def _offline(about: About | None) -> Iterator[None]:
    """Keeps the validator from looking links up, and it and the models that it runs from printing."""
    links = [where for _, where in about.cite if where.startswith("http")] if about else []
    context = need("bioimageio.spec").ValidationContext(known_files=dict.fromkeys(links), log_warnings=False)
    with context, rz.export_formats.quiet(), contextlib.redirect_stdout(io.StringIO()):
        yield


def _write_parts(classifier: Classifier, folder: Path, metadata: Mapping[str, Any], about: About) -> None:
    """Writes the files of a package into `folder`, all but its description."""
    crops = classifier.crops[spread(np.arange(len(classifier.crops)), N_TEST)]
    shutil.copyfile(classifier.path, folder / KERAS_IN_PACKAGE)
    rz.export_formats.write_onnx(classifier.model, folder / ONNX_IN_PACKAGE, metadata)
    np.save(folder / "test_input.npy", crops)
    probabilities = predict_probabilities(classifier.model, crops)
    np.save(folder / "test_output.npy", probabilities)
    tifffile.imwrite(folder / "sample_output.tif", probabilities[:1])
    tifffile.imwrite(folder / "sample_input.tif", crops[:1], photometric="minisblack")
    draw_cover(classifier.crops).save(folder / "cover.png")
    (folder / METADATA_FILE).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(about.documentation or document(classifier), encoding="utf-8")


def draw_cover(crops: np.ndarray) -> Image.Image:
    """A picture of some crops `(n, H, W, C)`, evenly spread, each from its darkest to its brightest pixel."""
    rows, columns = COVER_CROPS
    picture = Image.new("RGB", (columns * COVER_PX, rows * COVER_PX))
    for k, crop in enumerate(crops[spread(np.arange(len(crops)), rows * columns)]):
        crop = crop.astype(np.float64) if crop.shape[-1] == 3 else crop.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
        crop = (crop - crop.min()) / max(crop.max() - crop.min(), 1e-9)
        tile = Image.fromarray((255 * crop).astype(np.uint8)).resize((COVER_PX, COVER_PX), Image.Resampling.NEAREST)
        picture.paste(tile, (k % columns * COVER_PX, k // columns * COVER_PX))
    return picture


def document(classifier: Classifier) -> str:
    """Markdown on what goes into a model, what comes out, and what it was trained on."""
    facts, run = classifier.metadata, classifier.run
    height, width, channels = facts["crop_shape"]
    lines = [
        f"# {_name(classifier)}",
        f"Classifies images of {height} x {width} px and {channels} channels ({facts['dtype']}) into "
        f"{len(facts['class_names'])} classes. Input: {facts['normalisation'][0].lower()}{facts['normalisation'][1:]}",
        "## Classes",
        *(f"- `{line}`" for line in _list_classes(facts)),
    ]
    if run:
        lines += [
            "## Training",
            f"Trained with resnet_zclass {facts['resnet_zclass']}: {run.options.model_name}, weights "
            f"{run.options.weights}, at most {run.options.epochs} epochs, seed {run.options.seed}.",
        ]
    lines += [
        "## Validation",
        "Before use on images of another microscope, check the model on labelled images from there: a classifier is "
        "right about what it has seen.",
        *_list_scores(run.path / "evaluation" / "metrics.json" if run else None),
    ]
    return "\n\n".join(lines).replace("`\n\n- `", "`\n- `") + "\n"


def _list_classes(facts: Mapping[str, Any]) -> list[str]:
    """Names of the classes, with their z in um or the probability from which they are predicted."""
    lines = list(facts["class_names"])
    if facts["z_um"] is not None:
        lines = [f"{name}: z = {z:.4g} um" for name, z in zip(lines, facts["z_um"], strict=True)]
    if facts["thresholds"] is not None:
        lines = [f"{name}: from p = {p:.4g}" for name, p in zip(lines, facts["thresholds"], strict=True)]
    return lines


def _list_scores(path: Path | None) -> list[str]:
    """What evaluating the run on its test images gave, if that was done."""
    try:
        scores = read_json(path) if path else {}
    except (OSError, ValueError):
        return []
    words = [f"{key} {scores[key]:.3f}" for key in ("accuracy", "macro_f1", "mae_um") if scores.get(key) is not None]
    return [f"On {scores['n']} held-back images: {', '.join(words)}."] if words and "n" in scores else []


def _name(classifier: Classifier, title: str = "") -> str:
    name = title or f"{classifier.run.path.resolve().name if classifier.run else classifier.path.stem} classifier"
    return re.sub(r"[^A-Za-z0-9_+\- ()]", "-", name)[:128]


def _describe(classifier: Classifier, folder: Path, metadata: Mapping[str, Any], about: About) -> Any:
    """The description of a package, `ModelDescr`, whose files lie in `folder`."""
    model, keras, tf = need("bioimageio.spec.model.v0_5"), rz.backend.keras, rz.backend.tf

    def file(name: str) -> Any:
        return model.FileDescr(source=folder / name)

    tolerance = model.ReproducibilityTolerance(relative_tolerance=1e-3, absolute_tolerance=MAX_DIFFERENCE)
    config = model.BioimageioConfig(reproducibility_tolerance=[tolerance])
    weights = model.WeightsDescr(
        keras_v3=model.KerasV3WeightsDescr(
            source=folder / KERAS_IN_PACKAGE,
            keras_version=model.Version(keras.__version__),
            backend=("tensorflow", model.Version(tf.__version__)),
        ),
        onnx=model.OnnxWeightsDescr(
            source=folder / ONNX_IN_PACKAGE, opset_version=rz.export_formats.OPSET, parent="keras_v3"
        ),
    )
    names = classifier.metadata["class_names"]
    return model.ModelDescr(
        name=_name(classifier, about.title),
        description=about.description or f"Classifier of microscopy images into {len(names)} classes.",
        authors=[
            model.Author(name=name, affiliation=affiliation or None, orcid=orcid or None)
            for name, affiliation, orcid in about.authors
        ],
        license=about.license,
        cite=[_cite(model, text, where) for text, where in about.cite],
        tags=["classification", "microscopy", "fluorescence", "2d", "keras", "resnet"],
        documentation=file("README.md"),
        covers=[file("cover.png")],
        attachments=[file(METADATA_FILE)],
        inputs=[_describe_input(model, classifier, file)],
        outputs=[_describe_output(model, names, file)],
        weights=weights,
        config=model.Config(bioimageio=config, **{METADATA_KEY: dict(metadata)}),
    )


def _cite(model: Any, text: str, where: str) -> Any:
    return model.CiteEntry(text=text, **({"url": where} if where.startswith("http") else {"doi": where}))


def _describe_input(model: Any, classifier: Classifier, file: Any) -> Any:
    height, width, channels = classifier.metadata["crop_shape"]
    dtype = classifier.metadata["dtype"]
    ends = (float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)) if np.dtype(dtype).kind in "ui" else (None, None)
    return model.InputTensorDescr(
        id="crop",
        description=classifier.metadata["normalisation"],
        axes=[
            model.BatchAxis(),
            model.SpaceInputAxis(id="y", size=height),
            model.SpaceInputAxis(id="x", size=width),
            model.ChannelAxis(channel_names=_name_channels(classifier, channels)),
        ],
        data=model.IntervalOrRatioDataDescr(type=dtype, range=ends),
        preprocessing=[model.EnsureDtypeDescr(kwargs=model.EnsureDtypeKwargs(dtype="float32"))],
        test_tensor=file("test_input.npy"),
        sample_tensor=file("sample_input.tif"),
    )


def _describe_output(model: Any, names: Sequence[str], file: Any) -> Any:
    return model.OutputTensorDescr(
        id="probabilities",
        description="Probability of every class.",
        axes=[model.BatchAxis(), model.ChannelAxis(channel_names=list(names))],
        data=model.IntervalOrRatioDataDescr(type="float32", range=(0.0, 1.0)),
        test_tensor=file("test_output.npy"),
        sample_tensor=file("sample_output.tif"),
    )


def _name_channels(classifier: Classifier, n: int) -> list[str]:
    """Names of the channels: those of the channel files, or of colours, or numbers."""
    own = [end.strip("_-. ") for end in classifier.run.options.channels] if classifier.run else []
    usual = {1: ["gray"], 3: ["red", "green", "blue"]}.get(n, [f"channel{k}" for k in range(n)])
    return own if len(own) == n and all(own) else usual
