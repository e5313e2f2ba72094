"""What `fuzz_readers` damages and reads: for every kind of file whole ones, and all the functions that read them."""

import functools
import hashlib
import importlib
import io
import itertools
import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tifffile

from resnet_zclass import images, keras_h5, labels, opts, pack, plain_tiffs, runs, spots, tiffs, tree
from resnet_zclass.errors import InputError

MAX_CLAIM = 2**27  # bytes; with more there is nothing to learn but how slow the machine is


class HugeClaimError(Exception):
    """A file claims to be so large that it cannot be read here, or a reader ran out of memory."""


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Attributes:
        write: Function of a folder; writes whole files there.
        read: Function of the path of a file, named as one of these; reads it in every way there is.
        modules: What is loaded before any file is, in one process for all.
        batch: Files that one process reads.
        guard: What commands ask before they read such a file, as some keep compiled code busy for ever.
    """

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    modules: tuple[str, ...] = ()
    batch: int = 250
    guard: Callable[[Path], Any] | None = None

    def load(self) -> None:
        """Loads all that is needed."""
        for name in self.modules:
            importlib.import_module(name)


def attempt(function: Callable, *args: Any) -> Any:
    """What a reader returns, or its `InputError`."""
    try:
        return function(*args)
    except InputError as error:
        cause: BaseException | None = error
        while cause:
            if isinstance(cause, MemoryError) or "Unable to allocate" in str(cause):
                raise HugeClaimError(str(error)) from error
            cause = cause.__cause__ or cause.__context__
        return error


def settle(*outcomes: Any) -> None:
    """Raises the first of the errors that `attempt` returned, if it returned nothing else."""
    if all(isinstance(outcome, InputError) for outcome in outcomes):
        raise outcomes[0]


# Images


def write_tiffs(folder: Path) -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 60000, (3, 12, 10)).astype("uint16")
    colour = rng.integers(0, 255, (2, 12, 10, 3)).astype("uint8")
    imagej = {"imagej": True, "metadata": {"axes": "ZYX", "spacing": 0.3, "unit": "um"}, "resolution": (10.0, 10.0)}
    ome = {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeZ": 0.3, "PhysicalSizeX": 0.1}}
    channels = {"imagej": True, "metadata": {"axes": "ZCYX"}}
    kinds = {
        "pages": (small, {"metadata": None}),
        "imagej": (small, imagej),
        "ome": (small, ome),
        "channels": (np.stack([small, small], axis=1), channels),
        "deflate": (small, {"compression": "zlib", "predictor": True}),
        "lzw": (small, {"compression": "lzw"}),
        "jpeg": (colour[..., 0], {"compression": "jpeg"}),
        "zstd": (small, {"compression": "zstd"}),
        "packbits": (colour[..., 0], {"compression": "packbits"}),
        "big": (small, {"bigtiff": True}),
        "colour": (colour, {"photometric": "rgb"}),
        "alpha": (np.concatenate([colour, 0 * colour[..., :1] + 255], -1), {"photometric": "rgb", "extrasamples": [2]}),
        "planar": (np.moveaxis(colour, -1, 1), {"photometric": "rgb", "planarconfig": "separate"}),
        "float": (small.astype("float32"), {}),
        "tiled": (np.pad(small, ((0, 0), (0, 20), (0, 22))), {"tile": (16, 16)}),
        "swapped": (small, {"byteorder": ">"}),
        "strips": (small, {"rowsperstrip": 4, "compression": "zlib"}),
    }
    for name, (pixels, settings) in kinds.items():
        tifffile.imwrite(folder / f"{name}.tif", pixels, **settings)
    with tifffile.TiffWriter(folder / "series.tif") as writer:
        for page in small:
            writer.write(page, contiguous=False)


def read_tiff(path: Path) -> None:
    def read_runs() -> np.ndarray:
        with images.open_pages(path) as pages:
            return np.concatenate([*pages.runs(2), np.empty((0, *pages.shape[1:]), pages.dtype)])

    def read_units() -> Any:
        with tiffs.open_tiff(path) as tiff:
            return tiffs.read_units(tiff)

    def check_size() -> None:
        with tiffs.open_tiff(path) as tiff:
            claimed.extend(series.size * max(1, np.dtype(series.dtype).itemsize) for series in tiff.series)

    claimed: list[int] = []
    attempt(check_size)
    if sum(claimed) > MAX_CLAIM:
        raise HugeClaimError(f"{sum(claimed):,} bytes")
    whole, parts = attempt(images.read_pages, path), attempt(read_runs)
    if isinstance(whole, InputError) != isinstance(parts, InputError):
        raise AssertionError(f"whole {describe(whole)}, in runs {describe(parts)}")
    if not isinstance(whole, InputError):
        np.testing.assert_array_equal(whole, parts)
    settle(whole, attempt(images.read_stack, path), attempt(read_units), attempt(images.read_pixel_um, path))


def attempt_one(path: Path, *readers: Callable[[Path], Any]) -> Any:
    """What one of several readers, all of them slow, makes of a file; which one depends on the content alone."""
    return attempt(readers[zlib.crc32(path.read_bytes()) % len(readers)], path)


def describe(outcome: Any) -> str:
    return "refused" if isinstance(outcome, InputError) else f"{outcome.dtype} {outcome.shape}"


def write_plain_tiffs(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 5))
    for dtype in ("uint8", "uint16", "float32"):
        tifffile.imwrite(folder / f"{dtype}.tif", pixels.astype(dtype))
    tifffile.imwrite(folder / "imagej.tif", pixels.astype("uint16"), imagej=True, metadata={"unit": "um"})
    tifffile.imwrite(folder / "swapped.tif", pixels.astype("uint16"), byteorder=">", metadata=None)


def read_plain_tiff(path: Path) -> None:
    """What the fast reader takes, the other must read as well and alike."""
    pixels = plain_tiffs.read_plain_tiff(path)
    if pixels is None:
        return

    def read_other() -> np.ndarray:
        with tiffs.open_tiff_pages(path) as pages:
            return pages.read(0, pages.shape[0])

    other = attempt(read_other)
    if isinstance(other, InputError):
        raise AssertionError(f"the fast reader took what is refused: {other}")
    np.testing.assert_array_equal(pixels[None], other.reshape(-1, *other.shape[1:]))


def write_images(folder: Path) -> None:
    import imagecodecs
    import imageio.v3 as iio

    rng = np.random.default_rng(0)
    gray, colour = rng.integers(0, 255, (12, 10)).astype("uint8"), rng.integers(0, 255, (12, 10, 3)).astype("uint8")
    deep = rng.integers(0, 60000, (12, 10)).astype("uint16")
    for name, pixels in {"gray": gray, "colour": colour, "deep": deep, "rgba": np.dstack([colour, gray])}.items():
        (folder / f"{name}.png").write_bytes(imagecodecs.png_encode(pixels))
    for name, pixels in {"gray": gray, "colour": colour}.items():
        iio.imwrite(folder / f"{name}.jpg", pixels)
        iio.imwrite(folder / f"{name}.bmp", pixels)
    from PIL import Image

    Image.fromarray(gray).convert("P").save(folder / "palette.png")
    Image.fromarray(gray).convert("1").save(folder / "bits.bmp")
    Image.fromarray(colour).save(folder / "progressive.jpeg", progressive=True)


def write_packs(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "set")
        path.mkdir()
        for k in range(3):
            tifffile.imwrite(path / f"{k}.tif", np.full((2, 4, 5), k, "uint16"), photometric="minisblack")
        shutil.copy(pack.pack_images(path, [[f"{k}.tif"] for k in range(3)]), folder / "set.packed.h5")


def read_pack(path: Path) -> None:
    pack._pack_key(path)
    outcome = attempt(pack.open_pack, path)
    with mock.patch.object(pack, "MAX_IN_MEMORY_BYTES", 0):
        settle(outcome, attempt(pack.open_pack, path))


# Models


def write_h5_models(folder: Path) -> None:
    from drawn_legacy import (
        ALIKE,
        CONVOLUTIONAL,
        draw_values,
        functional_config,
        keras_2_order,
        sequential_config,
        write_h5,
        write_parallel,
    )

    write_parallel(folder / "parallel.hdf5")
    write_parallel(folder / "weights.hdf5", whole=False, suffix="_1")
    values = draw_values(CONVOLUTIONAL)
    groups: dict[str, list] = {}
    for layer, variable in keras_2_order(CONVOLUTIONAL):
        groups.setdefault(layer, []).append((f"{layer}/{variable}:0", values[layer][variable]))
    write_h5(folder / "functional.h5", groups, functional_config(CONVOLUTIONAL))
    write_h5(folder / "sequential.h5", groups, sequential_config(CONVOLUTIONAL), "2.2.4-tf")
    values = draw_values(ALIKE)
    groups = {layer: [(f"{layer}/{v}:0", array) for v, array in own.items()] for layer, own in values.items()}
    write_h5(folder / "alike.h5", groups, functional_config(ALIKE))


@functools.cache
def own_architecture() -> tuple:
    from drawn_legacy import CONVOLUTIONAL, functional_config

    from resnet_zclass.rebuild import build_model

    return build_model(functional_config(CONVOLUTIONAL))


def read_checkpoint(path: Path, *others: Callable[[Path], Any]) -> None:
    from resnet_zclass import checkpoints, inspection

    settle(attempt_one(path, inspection.describe, checkpoints.open_checkpoint, *others))


def read_h5_model(path: Path) -> None:
    from resnet_zclass import checkpoints, models

    def fill(path: Path) -> None:
        checkpoints.open_checkpoint(path, own_architecture())

    def load_backbone(path: Path) -> None:
        models.load_backbone_weights(own_architecture()[0], path)

    read_checkpoint(path, fill, load_backbone, checkpoints.read_architecture)


def build_small_models() -> dict:
    from resnet_zclass.backend import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    crop = keras.Input((8, 8, 1), name="crop")
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(2, 3, name="conv")(crop))
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Add(name="add")([x, layers.ReLU(name="relu")(x)]))
    functional = keras.Model(crop, layers.Dense(3, activation="softmax", name="head")(x), name="small")
    part = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")], name="part")
    nested = keras.Sequential([keras.Input((4,)), layers.Rescaling(0.5, name="scale"), part], name="nested")
    return {"functional": functional, "nested": nested}


def write_keras_models(folder: Path) -> None:
    from resnet_zclass.callbacks import BestCheckpoint  # noqa: F401 - loads what reads scores
    from resnet_zclass.models import build_classifier

    for name, model in build_small_models().items():
        model.save(folder / f"{name}.keras")
        with zipfile.ZipFile(folder / f"{name}.keras", "a") as archive:
            archive.comment = json.dumps({"val_loss": 0.5}).encode()
    build_classifier((16, 16, 1), n_classes=3, model_name="CNN", hidden=4).save(folder / "classifier.keras")


def read_keras_model(path: Path) -> None:
    from resnet_zclass import models
    from resnet_zclass.callbacks import read_score

    read_score(path)
    read_checkpoint(path, models.load_model, lambda path: models.load_backbone_weights(own_architecture()[0], path))


def write_weights(folder: Path) -> None:
    own_architecture()[0].save_weights(folder / "own.weights.h5")
    for name, model in build_small_models().items():
        model.save_weights(folder / f"{name}.weights.h5")


# Tables and text

XML = """<?xml version="1.0" encoding="UTF-8"?>
<TrackMate version="7.11.1"><Model spatialunits="micron" timeunits="s">
<FeatureDeclarations><SpotFeatures><Feature feature="QUALITY" name="Quality"/></SpotFeatures></FeatureDeclarations>
<AllSpots nspots="3"><SpotsInFrame frame="0"><Spot ID="1" name="a&amp;b"
 POSITION_X="1.5" POSITION_Y="2" POSITION_Z="0" FRAME="0"/>
<Spot ID="2" POSITION_X="9.25" POSITION_Y="7e0" POSITION_Z="0" FRAME="0"/></SpotsInFrame>
<SpotsInFrame frame="1">
<Spot ID="3" POSITION_X="1.6" POSITION_Y="2.1" POSITION_Z="0" FRAME="1"/></SpotsInFrame></AllSpots>
<AllTracks><Track name="Track_0" TRACK_ID="0"><Edge SPOT_SOURCE_ID="1" SPOT_TARGET_ID="3"/></Track></AllTracks>
</Model></TrackMate>
"""
TRACKMATE = """LABEL,ID,TRACK_ID,QUALITY,POSITION_X,POSITION_Y,POSITION_Z,FRAME
Label,Spot ID,Track ID,Quality,X,Y,Z,Frame
Label,Spot ID,Track ID,Quality,X,Y,Z,Frame
,,,(quality),(micron),(micron),(micron),
ID1,1,0,5.2,1.5,2.25,0,0
ID2,2,,5.1,7.5,3,0,1
"""
TABLES = {
    "spots-plain.csv": "y,x,frame,track,source\n1.5,2.5,0,a,m.tif\n3,4,1,a,m.tif\n5,6,1,,m.tif\n",
    "spots-trackpy.csv": ",y,x,mass,frame,particle\n0,1.5,2.5,9,0,0\n1,3.5,4.5,8,1,0.0\n",
    "spots-trackmate.csv": TRACKMATE,
    "labels.csv": "LabelText,LabelInteger\nnucleus,0\nNA,1\n02,2\n",
    "targets.csv": 'Id,Target,group,split\na,0 2,w1,train\nb,"1",w2,val\nc,2,w1,test\n',
    "manifest.csv": "split,label,file,page,group,source,plane,z_um\ntrain,0,a.tif,0,b1,s.tif,0,-0.1\n"
    "train,1,a.tif,1,b1,s.tif,1,0.0\ntest,0,b.tif,0,b2,s.tif,0,-0.1\n",
}
_DIGITS = ["00", "01", "02"]
_Z_METRICS = {
    "n": 4, "split": "test", "data_path": "gone", "accuracy": 0.75, "balanced_accuracy": 0.75, "macro_f1": 0.7,
    "within_one": 1.0, "mae_planes": 0.25, "rmse_planes": 0.5, "mae_um": 0.025, "rmse_um": 0.05, "rmse_z_um": 0.04,
    "loss": 0.4, "baseline_accuracy": 0.5, "ceiling_accuracy": 0.99, "ece": 0.1, "ece_tempered": 0.05,
    "temperature": 1.1, "set_coverage": 0.9, "set_size": 1.5, "z_sd_ratio": 1.0, "n_unlike": 0, "rmse_to_crlb": 1.5,
    "crlb_um": 0.03, "n_seen": 0, "n_groups_seen": 0,
}  # fmt: skip
_EXPORT = {"file": "model.onnx", "model_sha256": hashlib.sha256(b"").hexdigest(), "max_difference": 1e-6, "int8": False}
_PREDICTED = "".join(f"a.tif,{k},0{k % 3},0{(k > 2) + k % 3},{(k == 0) * 0.9},0.1,0.2\n" for k in range(4))
RUNS = {
    "z": {
        "opts.toml": 'data_path = "gone"\nhidden = [16, 8]\nfractions = [0.6, 0.2, 0.2]\n'
        "flip = true\nlearning_rate = 1e-3\n",
        "classes.csv": "LabelText,LabelInteger,z_um\n00,0,-0.1\n01,1,0.0\n02,2,0.1\n",
        "split.csv": "file,page,label,group,digest,split\n"
        + "".join(f"a.tif,{k},0{k % 3},b{k},{k:064x},{('train', 'val', 'test')[k % 3]}\n" for k in range(6)),
        "crops.json": json.dumps(
            {"dtype": "uint16", "crop_shape": [16, 16, 1], "resized": False, "cut_out": True, "pixel_um": 0.1}
        ),
        "calibration.json": json.dumps({"n": 6, "temperature": 1.2, "set_threshold": 0.1, "z_sd_factor": 1.1}),
        "environment.json": json.dumps({"resnet_zclass": "1.0", "cores": 2}),
        "metrics.json": json.dumps(_Z_METRICS),
        "predictions.csv": f"file,page,true_label,label,p_00,p_01,p_02\n{_PREDICTED}",
        "training_history.csv": "epoch,loss,val_loss\n0,1.0,1.1\n1,0.5,0.6\n",
        "exports.json": json.dumps({"onnx": {**_EXPORT, "crops_per_s": 900.0, "keras_crops_per_s": 300.0}}),
        "simulation.json": json.dumps({"ceiling": {"known": {"accuracy": 0.9, "within_one": 1}}, "options": {"a": 1}}),
    },
    "several": {
        "opts.toml": 'data_path = "gone"\nchannels = ["_red", "_green"]\nmodel_name = "CNN"\n',
        "classes.csv": "LabelText,LabelInteger,z_um,threshold\nrim,0,,0.5\nspots,1,,0.25\n",
        "split.csv": "file,page,label,group,digest,split\na_red.png,0,0 1,a,1f,train\nb_red.png,0,1,b,2f,test\n",
        "crops.json": json.dumps({"dtype": "uint8", "crop_shape": [16, 16, 2], "resized": True, "cut_out": False}),
        "metrics.json": json.dumps(
            {"n": 2, "split": "test", "data_path": "gone", "accuracy": 0.5, "micro_f1": 0.6, "macro_f1": 0.5,
             "baseline_macro_f1": 0.4, "samples_f1": 0.6}
        ),
        "predictions.csv": "file,page,true_label,label,p_rim,p_spots\n"
        "a,0,rim;spots,rim,0.9,0.1\nb,0,spots,spots,0.1,0.9\n",
        "per_class.csv": "label,n,f1,precision,recall\nrim,1,1.0,1.0,1.0\nspots,2,0.5,0.5,\n",
    },
}  # fmt: skip
_PLACES = dict.fromkeys(("metrics.json", "predictions.csv", "per_class.csv"), "evaluation")
_PLACES |= {"training_history.csv": "fine_tune_model", "exports.json": "export"}


def write_xml(folder: Path) -> None:
    (folder / "track.xml").write_text(XML, encoding="utf-8")
    (folder / "wide.xml").write_text(XML.replace("UTF-8", "UTF-16"), encoding="utf-16")
    (folder / "latin.xml").write_text(XML.replace("UTF-8", "ISO-8859-1").replace("micron", "\xb5m"), encoding="latin-1")


def read_spots(path: Path) -> None:
    table = spots.read_spots(path)
    predicted = {"spot": range(len(table)), "z_um": 0.5, "z_um_sd": 0.1, "reason": ""}
    spots.write_spots(path, path.with_name(f"out{path.suffix}"), spots.pd.DataFrame(predicted))
    spots.judge_places(attempt(spots.to_pixels, table, 0.1, path), (20, 20), 4)


def read_manifest(path: Path) -> None:
    rows = {"split": ["train", "train", "test"], "label": ["0", "1", "0"], "file": ["a.tif", "a.tif", "b.tif"]}
    items = spots.pd.DataFrame(rows | {"page": [0, 1, 0]})
    tree.has_planes(path.parent)
    tree.join_manifest(path.parent, items)


def read_targets(path: Path) -> None:
    labels._has_targets(path)
    labels.read_target_table(path)


def read_table(path: Path) -> None:
    kind = path.name.partition("-")[0].partition(".")[0]
    readers = {
        "spots": read_spots,
        "labels": labels.read_label_table,
        "targets": read_targets,
        "manifest": read_manifest,
    }
    readers[kind](path) if kind in readers else read_in_run(path)


def write_tables(folder: Path) -> None:
    for name, text in TABLES.items():
        (folder / name).write_text(text)
    spots.pd.read_csv(io.StringIO(TABLES["labels.csv"]), keep_default_na=False).to_excel(
        folder / "labels.xlsx", index=False
    )
    write_run_files(folder, ".csv")


def write_run_files(folder: Path, suffix: str) -> None:
    for kind, name in itertools.chain.from_iterable(((kind, name) for name in files) for kind, files in RUNS.items()):
        if name.endswith(suffix):
            (folder / f"{kind}-{name}").write_text(RUNS[kind][name])


def write_run(folder: Path, kind: str, **files: bytes) -> Path:
    """The folder of a run but its model, with some files as they are given."""
    for name, text in RUNS[kind].items():
        place = folder / _PLACES.get(name, "") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(files.get(name, text.encode()))
    (folder / runs.MODEL_FILE).write_bytes(b"")
    (folder / "export").mkdir(exist_ok=True)
    (folder / "export" / "model.onnx").write_bytes(b"")
    (folder / "fine_tune_model" / "live.png").parent.mkdir(exist_ok=True)
    (folder / "fine_tune_model" / "live.png").write_bytes(b"")
    return folder


def read_in_run(path: Path) -> None:
    """Reads a file of a run as every command does that reads runs."""
    from resnet_zclass import comparison, engines, evaluate, predictions, report, resumption, scene

    kind, _, name = path.name.partition("-")
    folder = write_run(path.parent / "run", kind, **{name: path.read_bytes()})
    run = runs.read_run(folder)
    items = runs.pd.read_csv(io.StringIO(RUNS[kind]["split.csv"]), dtype={"label": str})
    data = FoundSet(Path("found"), items)

    def estimate() -> None:
        probabilities = np.full((2, len(run.classes)), 1 / len(run.classes))
        if run.z_um is not None and run.calibration:
            predictions.estimate_z(run, probabilities)

    def rewrite(_: Path) -> None:
        report.renew_report(run)

    def compare(_: Path) -> None:
        comparison.write_comparison(folder / "both.html", [run, run])

    def begin(_: Path) -> None:
        resumption.is_begun(folder, run.options)

    outcomes = [
        attempt(lambda: (run.thresholds, run.z_um, run.familiar, run.calibration)),
        attempt(estimate),
        attempt(run.restore_split, data),
        attempt(runs.recognise, run.path, data),
        attempt_one(path, rewrite, compare, begin),
        attempt(engines.choose_engine, folder),
        attempt(scene.read_scene, folder),
        attempt(scene.is_recorded, folder, {"a": 1}),
        attempt(evaluate._read_ceiling, folder),
    ]
    settle(*outcomes)


@dataclass(frozen=True)
class FoundSet:
    """As much of a `loader.Dataset` as it takes to find its images in a run."""

    path: Path
    items: Any
    several: bool = True

    def with_splits(self, splits: np.ndarray) -> "FoundSet":
        return FoundSet(self.path, self.items.assign(split=splits))


def write_npz(folder: Path) -> None:
    from resnet_zclass import training_state, unlike

    arrays = {"model/0000/conv/kernel": np.ones((3, 3), "f4"), "optimizer/0001/iteration": np.array(5)}
    training_state.write_state(folder / "state_000001.npz", arrays, {"format": 1, "epoch": 1, "callbacks": []})
    crops = np.random.default_rng(0).poisson(20, (30, 4, 4, 1)).astype("uint16")
    unlike.save_familiar(folder / "familiar.npz", unlike.fit_familiar(crops[:20], crops[20:], 0.0))
    np.savez(folder / "check.npz", x=np.zeros((2, 4, 4, 1), "f4"), y=np.ones((2, 3), "f4"))
    np.savez_compressed(folder / "check-several.npz", x0=np.zeros((2, 3)), x1=np.zeros((2, 3)), y=np.ones((2, 3)))


def read_npz(path: Path) -> None:
    from resnet_zclass import save_non_multi_gpu_model, training_state

    if path.name.startswith("state"):
        training_state.read_state(path)
    elif path.name.startswith("check"):
        save_non_multi_gpu_model._read_check(str(path))
    else:
        facts = RUNS["z"]["crops.json"].replace("16, 16", "4, 4").encode()
        run = runs.read_run(write_run(path.parent, "z", **{"crops.json": facts}))
        run.familiar.score(np.ones((2, 4, 4, 1), "uint16"))


def write_toml(folder: Path) -> None:
    for kind in RUNS:
        (folder / f"train-{kind}.toml").write_text(RUNS[kind]["opts.toml"])
    for preset in sorted(opts.PRESETS_PATH.glob("*.toml")):
        (folder / f"train-{preset.name}").write_bytes(preset.read_bytes())
    for name in ("train", "simulate", "make_dataset", "export"):
        opts.save_options(folder / f"{name}-own.toml", opts.COMMANDS[name]())


def read_toml(path: Path) -> None:
    name = path.name.partition("-")[0]
    options = opts.load_options(name, path)
    attempt(opts.load_options, "pretrain", path)
    opts.as_command(name, options)
    opts.save_options(path.with_name("again.toml"), options)


def write_json(folder: Path) -> None:
    from drawn_legacy import ALIKE, CONVOLUTIONAL, functional_config, sequential_config

    for name, config in {
        "functional": functional_config(CONVOLUTIONAL),
        "alike": functional_config(ALIKE),
        "sequential": sequential_config(CONVOLUTIONAL),
    }.items():
        (folder / f"architecture-{name}.json").write_text(json.dumps(config))
    for name, model in build_small_models().items():
        (folder / f"architecture-{name}-today.json").write_text(model.to_json())
    write_run_files(folder, ".json")


def read_json(path: Path) -> None:
    from resnet_zclass import checkpoints

    if path.name.startswith("architecture"):
        attempt_one(path, checkpoints.read_architecture, lambda path: checkpoints.read_architecture(path, True))
    else:
        read_in_run(path)


_TF = ("resnet_zclass.checkpoints", "resnet_zclass.callbacks", "resnet_zclass.inspection")
_RUN = ("pandas", "resnet_zclass.report", "resnet_zclass.evaluate", "resnet_zclass.comparison", "sklearn.metrics")
READERS = {
    "tiff": Reader(write_tiffs, read_tiff, ("tifffile", "imagecodecs"), 1000),
    "plain_tiff": Reader(write_plain_tiffs, read_plain_tiff, ("tifffile",), 2000),
    "png_jpeg_bmp": Reader(write_images, images.read_pages, ("imagecodecs", "PIL.Image"), 1000),
    "pack": Reader(write_packs, read_pack, ("h5py",), 1000),
    "h5": Reader(write_h5_models, read_h5_model, _TF, guard=keras_h5.check_answers),
    "keras": Reader(write_keras_models, read_keras_model, _TF),
    "weights": Reader(write_weights, read_h5_model, _TF, guard=keras_h5.check_answers),
    "xml": Reader(write_xml, read_spots, ("pandas", "defusedxml.ElementTree"), 1000),
    "csv": Reader(write_tables, read_table, (*_RUN, "openpyxl"), 400),
    "npz": Reader(write_npz, read_npz, (*_RUN, "resnet_zclass.training_state"), 1000),
    "toml": Reader(write_toml, read_toml, ("resnet_zclass.opts",), 1000),
    "json": Reader(write_json, read_json, (*_RUN, *_TF)),
}
