"""Bad input to every command: one line that names what is wrong and how to mend it, exit code 2, and nothing written.

`malformed.py` makes a place full of good files. Each row spoils one of them, or asks for what cannot be.
"""

import hashlib
import importlib
import warnings
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
from malformed import (
    BINARY,
    EMPTY,
    LATIN,
    TEXT,
    arrays,
    cell,
    copy_place,
    cut,
    dangling,
    edit,
    facts,
    folder,
    gone,
    hdf5,
    instead,
    member,
    mixed_pages,
    one_pixel,
    pickled,
    pixels,
    png,
    put,
    table,
    without,
    write_place,
)

from resnet_zclass import serve
from resnet_zclass.opts import COMMANDS, parse_options
from resnet_zclass.pretrain import claim_folder

PREDICT = "predict --load_logs_path run --pred_save_path out/p.csv --pred_save_name out/p.npy"
KERAS = "predict --load_logs_path run --engine keras --pred_save_path out/p.csv new"
ONNX = "predict --load_logs_path run --engine onnx --pred_save_path out/p.csv new"
LITERT = "predict --load_logs_path run --engine litert --pred_save_path out/p.csv new"
SPOTS = f"{PREDICT} stacks/a.tif --any_pixel_size --spots"
TRACKS = f"{PREDICT} stacks/a.tif --any_pixel_size --tracks_save_path out/tracks --spots"
CELLS = "predict --load_logs_path several --pred_save_path out/p.csv new_cells"
STACK = "make_dataset --source_path stacks --data_path out/made --planes 5 --crop_px 16"
CLASS = "make_dataset --source_path pages --data_path out/made --layout class --crop_px 16"
IMAGES = "make_dataset --data_path out/made --layout images --source_path"
TRAIN = "train --model_name CNN --hidden 0 --epochs 1 --no_evaluate --save_logs_path out --run_name new --data_path"
SEVERAL = f"{TRAIN} cells --channels _red _green _blue _yellow"
OF_CELLS = "cells --channels _red _green _blue _yellow --label_table cells/labels.csv"
RESUME = "train --opts run/opts.toml --resume --save_logs_path . --run_name run"
EVALUATE = "evaluate --load_logs_path run"
EXPORT = "export --load_logs_path run --overwrite"
BARE = "export --save_path out/model.onnx --load_logs_path"
CONVERT = "save_non_multi_gpu_model --save_path out/plain.keras --weights_path"
INSPECT = "save_non_multi_gpu_model --inspect --weights_path"
SIMULATE = (
    "simulate --planes 3 --per_class 5 --n_fields 1 --crop_px 8 --field_px 24 --beads_per_field 1 --ceiling_crops 0"
)
PRETRAIN = "pretrain --epochs 2 --microscopes 8 --episodes 1 --model_name CNN --save_path"

ROWS: dict[str, tuple[str, str, str, object]] = {}  # words, file to spoil, part of the message, how it is spoilt


def add(name, words, wanted, path="", spoil=None):
    """A row of the table."""
    assert name not in ROWS, name
    ROWS[name] = (words, path, wanted, spoil)


def some(faults, *names):
    """Those of these names."""
    return {name: faults[name] for name in names}


def each(words, path, faults):
    """Every fault `{name: (how, parts of the message ...)}` in a file that a command reads."""
    command = words.split()[0] + " --inspect" * ("--inspect" in words)
    for fault, (spoil, *wanted) in faults.items():
        add(f"{command}, {path}: {fault}", words, wanted, path, spoil)


def cross(faults, *readers):
    """Every fault `{name: (how, part of the message)}` in the file of every reader `(words, path)`, which is named."""
    for words, path in readers:
        for fault, (spoil, wanted) in faults.items():
            each(words, path, {fault: (spoil, Path(path).name, wanted)})


TIFFS = {
    "empty": (EMPTY, "0 bytes"),
    "text": (TEXT, "TIFF"),
    "cut at 1 %": (cut(0.01), "short"),
    "cut at 50 %": (cut(0.5), "short"),
    "cut at 80 %": (cut(0.8), "short"),
    "pages of mixed shapes": (mixed_pages, "mixed shapes"),
    "no pages": (put(b"II*\0\0\0\0\0"), "damaged"),
    "NaN": (one_pixel(np.nan, "float32"), "NaN"),
    "infinite": (one_pixel(np.inf, "float64"), "NaN or infinite"),
    "negative": (one_pixel(-3, "int16"), "-3"),
    "64 bit": (one_pixel(2**40, "uint64"), "32-bit float"),
    "complex": (one_pixel(1j, "complex64"), "complex64"),
    "a PNG by its content": (instead("png/a/a0.png"), "TIFF"),
}  # fmt: skip
cross(
    TIFFS,
    (f"{PREDICT} new/a.tif", "new/a.tif"),
    (STACK, "stacks/a.tif"),
    (CLASS, "pages/01.tif"),
    (f"{IMAGES} set", "set/val/01/drawn.tif"),
    (f"{TRAIN} set", "set/train/01/drawn.tif"),
)
cross(
    some(TIFFS, "cut at 50 %", "NaN"),
    ("doctor --data_path set", "set/train/01/drawn.tif"),
    (EVALUATE, "set/test/02/drawn.tif"),
    (EXPORT, "set/test/02/drawn.tif"),
    (f"{SPOTS} spots.csv", "stacks/a.tif"),
)
COLOUR = pixels(lambda image: np.stack([image.astype("uint8")] * 3, axis=-1), photometric="rgb")
TIME = pixels(lambda image: np.stack([image] * 2), imagej=True, metadata={"axes": "TZYX"})
each(STACK, "stacks/a.tif", {
    "colour": (COLOUR, "a.tif", "one gray channel"),
    "time and z": (TIME, "a.tif", "TZYX"),
    "few planes": (pixels(lambda image: image[:4]), "a.tif", "--planes"),
    "a small field": (pixels(lambda image: image[:, :9]), "a.tif", "--crop_px"),
    "no bead": (pixels(np.zeros_like), "a.tif", "--spots"),
    "a dangling link": (dangling, "a.tif", "does not exist"),
})  # fmt: skip
each(CLASS, "pages/00.tif", {
    "sorted colour": (COLOUR, "00.tif", "mixed pixel types"),
})  # fmt: skip
each(CLASS, "pages/01.tif", {
    "sorted of other depth": (pixels(lambda i: i.astype("uint8")), "pixel types"),
    "sorted without z": (lambda p: p.rename("pages/other.tif"), "other", "name files"),
})  # fmt: skip
each(CLASS, "pages", {
    "one class": (lambda p: [gone(p / f) for f in ("00.tif", "01.tif")], "02.tif", "each of two"),
})  # fmt: skip
each(f"{PREDICT} new", "new/a.tif", {
    "colour": (COLOUR, "a.tif", "channels"),
    "another depth": (pixels(lambda i: i.astype("uint8")), "a.tif", "uint8"),
    "smaller than a crop": (pixels(lambda i: i[:, :9]), "a.tif", "16 x 16"),
    "no bead": (pixels(lambda i: np.zeros((2, 40, 40), "uint16")), "new", "--spots"),
    "empty folder": (gone, "new", "holds no images"),
    "a dangling link": (dangling, "a.tif", "does not exist"),
})  # fmt: skip
each(CELLS, "new_cells/0000-cell_blue.png", {
    "a channel is missing": (gone, "0000-cell", "_blue"),
    "channels of two sizes": (png(lambda i: i[:9]), "_blue.png", "16"),
    "a channel is cut": (cut(0.5), "_blue.png", "short"),
})  # fmt: skip

SINGLES = {"empty": (EMPTY, "0 bytes"), "text": (TEXT, "no image"), "cut": (cut(0.6), "no image")}
for suffix in ("png", "jpg", "bmp"):
    image = f"b/b1.{suffix}"
    cross(
        SINGLES,
        (f"{IMAGES} {suffix}", f"{suffix}/{image}"),
        (f"{TRAIN} split_{suffix}", f"split_{suffix}/train/{image}"),
    )
each(f"{IMAGES} png", "png/b/b1.png", {
    "a PNG is a JPEG": (instead("jpg/b/b1.jpg"), "b1.png", "no image"),
    "two sizes": (png(lambda i: i[:9]), "b1.png", "--crop_px"),
})  # fmt: skip
each(f"{IMAGES} png", "png/b/notes.txt", {
    "a stray file": (TEXT, "notes.txt", "move it away"),
})  # fmt: skip
each(f"{IMAGES} png", "png/b", {
    "an empty class": (lambda p: [gone(f) for f in p.iterdir()], "png/b", "holds no image"),
})  # fmt: skip

LABELS = {
    "empty": (EMPTY, "label table"),
    "binary": (BINARY, "label table"),
    "a column is missing": (without("LabelInteger"), "LabelText and LabelInteger"),
    "text twice": (cell("LabelText", "01"), "twice"),
    "number twice": (cell("LabelInteger", "1"), "twice"),
    "not whole": (cell("LabelInteger", "0.5"), "whole"),
    "not a number": (cell("LabelInteger", "one"), "label table"),
    "infinite": (cell("LabelInteger", "inf"), "whole"),
    "number empty": (cell("LabelInteger", None), "whole"),
    "text empty": (cell("LabelText", None), "empty"),
    "a class too many": (table(lambda t: pd.concat([t, t[:1].assign(LabelText="9", LabelInteger="9")])), "'9'"),
    "no rows": (table(lambda t: t[:0]), "not in"),
}  # fmt: skip
cross(
    LABELS,
    (f"{TRAIN} set", "set/class-labels.xlsx"),
    (f"{TRAIN} set2", "set2/class-labels.csv"),
)
cross(some(LABELS, "empty", "not whole"), ("doctor --data_path set2", "set2/class-labels.csv"))
each(f"{TRAIN} set2", "set2/class-labels.csv", {
    "labels in Latin 1": (put(LATIN), "class-labels.csv", "utf-8"),
    "labels in UTF-16": (put(LATIN.decode("latin-1").encode("utf-16")), "class-labels.csv", "utf-8"),
})  # fmt: skip
each(f"{TRAIN} set", "set/class-labels.xlsx", {
    "an Excel file is text": (TEXT, "class-labels.xlsx"),
    "an Excel file is cut": (cut(0.5), "class-labels.xlsx"),
})  # fmt: skip
each(f"{IMAGES} set", "set/class-labels.xlsx", {
    "labels": (cell("LabelText", "01"), "class-labels.xlsx", "twice"),
})  # fmt: skip

TARGETS = {
    "empty": (EMPTY, "Id"),
    "binary": (BINARY, "Id"),
    "a column is missing": (without("Target"), "Target"),
    "Id twice": (cell("Id", "0001-cell"), "twice"),
    "Id empty": (cell("Id", None), "empty"),
    "Id unknown": (cell("Id", "nobody"), "add Id"),
    "Target empty": (cell("Target", None), "empty"),
    "Target is a word": (cell("Target", "rim"), "whole numbers"),
    "Target is negative": (cell("Target", "-1"), "whole numbers"),
    "Target twice": (cell("Target", "1 1"), "whole numbers"),
    "no rows": (table(lambda t: t[:0]), ""),
    "UTF-16": (put("Id,Target\na,0\n".encode("utf-16")), ""),
}  # fmt: skip
cross(TARGETS, (f"{TRAIN} {OF_CELLS}", "cells/labels.csv"))
cross(some(TARGETS, "empty", "Id twice"), (f"doctor --data_path {OF_CELLS}", "cells/labels.csv"))
each("evaluate --load_logs_path several", "cells/labels.csv", {
    "twice": (cell("Id", "0001-cell"), "labels.csv", "twice"),
})  # fmt: skip
each(SEVERAL, "cells/classes.csv", {
    "names of classes": (cell("LabelText", "rim"), "classes.csv", "twice"),
    "names of too few classes": (table(lambda t: t[:2]), "classes.csv", "out of range"),
})  # fmt: skip
each(SEVERAL, "cells/more.csv", {
    "two tables of targets": (put("Id,Target\na,0\n"), "more.csv", "--label_table"),
})  # fmt: skip
each(SEVERAL, "cells/0003-cell_red.png", {
    "an image of cells is cut": (cut(0.5), "_red.png", "short"),
    "an image of cells is gone": (gone, "0003-cell", "_red"),
})  # fmt: skip

MANIFESTS = {
    "empty": (EMPTY, "columns"),
    "binary": (BINARY, "columns"),
    "a column is missing": (without("page"), "page"),
    "a row is missing": (table(lambda t: t[1:]), "no row"),
    "a row twice": (table(lambda t: pd.concat([t, t[:1]])), "one row"),
    "page is a word": (cell("page", "first"), "page"),
    "page is not whole": (cell("page", "0.5"), "whole"),
    "group is empty": (cell("group", None), "empty"),
    "z is infinite": (cell("z_um", "inf"), "infinite"),
    "z is a word": (cell("z_um", "focus"), "focus"),
    "another split": (cell("split", "val"), "says"),
}  # fmt: skip
cross(
    MANIFESTS,
    (f"{TRAIN} set", "set/manifest.csv"),
    (EVALUATE, "set/manifest.csv"),
)
cross(some(MANIFESTS, "binary", "page is a word"), ("doctor --data_path set", "set/manifest.csv"))

RUNS = {
    "classes.csv": {
        "empty": (EMPTY, "table"),
        "binary": (BINARY, "table"),
        "a column is missing": (without("z_um"), "z_um"),
        "text twice": (cell("LabelText", "01"), "twice"),
        "text is empty": (cell("LabelText", None), "empty"),
        "number is a word": (cell("LabelInteger", "one"), "one"),
        "gone": (gone, "has no"),
        "a folder": (folder, "has no"),
    },
    "crops.json": {
        "empty": (EMPTY, "damaged"),
        "cut": (cut(0.5), "damaged"),
        "binary": (BINARY, "damaged"),
        "a list": (put("[]"), "damaged"),
        "nothing of size": (facts(crop_shape=None), "damaged"),
        "two numbers": (facts(crop_shape=[16, 16]), "damaged"),
        "a depth that is none": (facts(dtype="quux"), "damaged"),
    },
    "opts.toml": {
        "text": (TEXT, "TOML"),
        "binary": (BINARY, "TOML"),
        "an unknown option": (put("epoch = 3\n"), "epochs meant"),
        "a wrong value": (put("epochs = 'many'\n"), "--epochs"),
        "gone": (gone, "has no"),
    },
    "split.csv": {
        "empty": (EMPTY, ""),
        "binary": (BINARY, ""),
        "a column is missing": (without("digest"), "digest"),
        "page is a word": (cell("page", "first"), ""),
        "a split that is none": (cell("split", "trial"), "damaged"),
        "gone": (gone, "has no"),
    },
    "model.keras": {"gone": (gone, "has no")},
}  # fmt: skip
OF_RUN = {
    "classes.csv": (f"{PREDICT} new", EVALUATE, "report run", EXPORT, "serve run", RESUME),
    "crops.json": (f"{PREDICT} new", EVALUATE, "serve run"),
    "opts.toml": (f"{PREDICT} new", EVALUATE, "report run"),
    "split.csv": (f"{EVALUATE} --data_path set2", RESUME, "report run"),
    "model.keras": (f"{PREDICT} new", EVALUATE, "report run", "serve run"),
}
for file, faults in RUNS.items():
    cross(faults, *((words, f"run/{file}") for words in OF_RUN[file]))

KERAS_FILES = {
    "empty": (EMPTY, ""),
    "text": (TEXT, ""),
    "cut": (cut(0.7), ""),
    "no config": (member("config.json"), ""),
    "config is no JSON": (member("config.json", lambda old: old[:-9]), ""),
    "config is a list": (member("config.json", lambda old: b"[]"), ""),
    "config of an unknown layer": (member("config.json", lambda old: old.replace(b'"Dense"', b'"Sense"')), ""),
    "no weights": (member("model.weights.h5"), ""),
    "weights are cut": (member("model.weights.h5", lambda old: old[:999]), ""),
    "weights are text": (member("model.weights.h5", lambda old: b"none"), ""),
    "another zip": (instead("run/familiar.npz"), ""),
    "HDF5": (instead("old/new.weights.h5"), ""),
}  # fmt: skip
cross(
    KERAS_FILES,
    (KERAS, "run/model.keras"),
    (f"{CONVERT} old/new.keras", "old/new.keras"),
)
cross(
    some(KERAS_FILES, "cut", "no config"),
    (f"{TRAIN} set --weights run/model.keras", "run/model.keras"),
    (EVALUATE, "run/model.keras"),
    (EXPORT, "run/model.keras"),
    (f"{BARE} old/new.keras", "old/new.keras"),
    ("report run", "run/model.keras"),
    (f"{INSPECT} run/model.keras", "run/model.keras"),
)
each(KERAS, "run/classes.csv", {
    "another number of classes": (table(lambda t: t[:2]), "classes.csv", "3"),
})  # fmt: skip
each(EVALUATE, "run/classes.csv", {
    "another number of classes": (table(lambda t: t[:2]), "classes.csv", "another run's"),
})  # fmt: skip

WEIGHTS = {
    "empty": (EMPTY, ""),
    "text": (TEXT, ""),
    "cut": (cut(0.5), ""),
    "gone": (gone, "not there"),
    "a folder": (folder, "folder"),
    "another model": (hdf5(lambda file: file.create_dataset("more", data=np.zeros(3))), ""),
}  # fmt: skip
cross(
    WEIGHTS,
    (f"{TRAIN} set --weights old/new.weights.h5", "old/new.weights.h5"),
    (f"{CONVERT} old/new.weights.h5 --architecture old/new.keras", "old/new.weights.h5"),
)


def no_config(file):
    del file.attrs["model_config"]


def no_names(file):
    del file["model_weights"].attrs["layer_names"]


def wrong_names(file):
    file["model_weights/model_1"].attrs["weight_names"] = np.array([b"nothing:0"])


def wrong_shape(file):
    names = file["model_weights/model_1"].attrs["weight_names"]
    del file["model_weights/model_1"][names[0]]
    file["model_weights/model_1"][names[0]] = np.zeros((2, 2), "float32")


def link(file):
    names = file["model_weights/model_1"].attrs["weight_names"]
    del file["model_weights/model_1"][names[0]]
    file["model_weights/model_1"][names[0]] = h5py.ExternalLink("/etc/passwd", "/x")


OLD = {
    "empty": (EMPTY, ""),
    "text": (TEXT, "HDF5"),
    "cut at 10 %": (cut(0.1), ""),
    "cut at 90 %": (cut(0.9), ""),
    "gone": (gone, "not there"),
    "config is no JSON": (hdf5(lambda file: file.attrs.modify("model_config", "{")), ""),
    "config is a number": (hdf5(lambda file: file.attrs.modify("model_config", "3")), ""),
    "config is missing": (hdf5(no_config), "--architecture"),
    "no names of layers": (hdf5(no_names), ""),
    "names of nothing": (hdf5(wrong_names), ""),
    "another shape": (hdf5(wrong_shape), ""),
    "a link to elsewhere": (hdf5(link), ""),
    "groups are missing": (hdf5(lambda file: file.__delitem__("model_weights")), ""),
}  # fmt: skip
cross(OLD, (f"{CONVERT} old/whole.hdf5", "old/whole.hdf5"))
cross(
    some(OLD, "empty", "text", "cut at 90 %", "config is no JSON", "no names of layers"),
    (f"{INSPECT} old/whole.hdf5", "old/whole.hdf5"),
)
cross(
    {
        "empty": (EMPTY, "no configuration"),
        "text": (TEXT, "no configuration"),
        "binary": (BINARY, "no configuration"),
        "cut": (cut(0.5), "no configuration"),
        "a list": (put("[]"), "no configuration"),
        "nothing in it": (put('{"class_name": "Model", "config": {}}'), ""),
        "no layers": (put('{"class_name": "Model", "config": {"name": "m", "layers": []}}'), ""),
        "an unknown layer": (edit('"Dense"', '"Sense"'), "Sense"),
        "units are text": (edit('"units": 5', '"units": "five"'), ""),
        "gone": (gone, ""),
    },
    (f"{CONVERT} old/weights.h5 --architecture old/model.json", "old/model.json"),
)  # fmt: skip
each(f"{CONVERT} old/whole.hdf5 --check_path old/check.npz", "old/check.npz", {
    "empty": (EMPTY, "--check_path"),
    "text": (TEXT, "--check_path"),
    "cut": (cut(0.5), "--check_path"),
    "gone": (gone, "--check_path"),
    "no predictions": (arrays(lambda a: {"x": a["x"]}), "images x and predictions y"),
    "other predictions": (arrays(lambda a: a | {"y": a["y"] + 1}), "predictions by up to 1"),
    "predictions of another shape": (arrays(lambda a: a | {"y": a["y"][:1]}), "--check_path"),
    "images of another shape": (arrays(lambda a: a | {"x": a["x"][:, :2]}), "--check_path"),
    "images are text": (arrays(lambda a: a | {"x": np.array(["a", "b"])}), "--check_path"),
    "NaN": (arrays(lambda a: a | {"y": a["y"] * np.nan}), "predictions by up to nan"),
    "objects": (pickled, "--check_path"),
    "an array alone": (lambda path: np.save(path.open("wb"), np.zeros(3)), "--check_path"),
})  # fmt: skip
CKPT = f"{CONVERT} old/ckpt --architecture old/new.keras"
each(CKPT, "old/ckpt/ckpt-1.index", {
    "an index is empty": (EMPTY, "ckpt"),
    "an index is text": (TEXT, "ckpt"),
    "an index is cut": (cut(0.5), "ckpt"),
})  # fmt: skip
each(CKPT, "old/ckpt/ckpt-1.data-00000-of-00001", {
    "the data are cut": (cut(0.5), "ckpt"),
    "the data are gone": (gone, "ckpt"),
})  # fmt: skip
each(CKPT, "old/ckpt/checkpoint", {
    "the table of checkpoints is text": (TEXT, "ckpt"),
    "the table of checkpoints is binary": (BINARY, "ckpt"),
})  # fmt: skip
SAVED = f"{CONVERT} old/saved --architecture old/new.keras"
each(SAVED, "old/saved/variables", {
    "a SavedModel without variables": (gone, "saved"),
})  # fmt: skip
each(SAVED, "old/saved/variables/variables.index", {
    "a SavedModel with cut variables": (cut(0.5), "saved"),
})  # fmt: skip

cross(
    {
        "empty": (EMPTY, "remove it"),
        "binary": (BINARY, "remove it"),
        "a list": (put("[1]"), "remove it"),
        "a number is a word": (facts(set_threshold="high"), "remove it"),
        "a number is missing": (facts(set_threshold=None), "remove it"),
    },
    (f"{PREDICT} new", "run/calibration.json"),
)  # fmt: skip
cross(
    {
        "empty": (EMPTY, "remove it"),
        "text": (TEXT, "remove it"),
        "cut": (cut(0.5), "remove it"),
        "binary": (BINARY, "remove it"),
        "an array is missing": (member("scale.npy"), "remove it"),
        "an array is cut": (member("scale.npy", lambda old: old[:60]), "remove it"),
        "an array of another shape": (arrays(lambda a: a | {"mean": a["mean"][:5]}), ""),
        "an array of text": (arrays(lambda a: a | {"threshold": np.array("high")}), ""),
        "objects": (pickled, "remove it"),
    },
    (f"{PREDICT} new", "run/familiar.npz"),
)  # fmt: skip
cross(
    {
        "empty": (EMPTY, "export again"),
        "binary": (BINARY, "export again"),
        "a list": (put("[1]"), "export again"),
        "an entry lacks its file": (put('{"onnx": {}}'), "export again"),
        "a file elsewhere": (edit("model.onnx", "../model.onnx"), "export again"),
        "a number is a word": (edit('"max_difference": ', '"max_difference": "no", "was": '), "export again"),
    },
    (f"{ONNX} --overwrite", "run/export/exports.json"),
    (EXPORT, "run/export/exports.json"),
)  # fmt: skip
cross(
    {
        "empty": (EMPTY, ""),
        "text": (TEXT, ""),
        "binary": (BINARY, ""),
        "cut": (cut(0.5), ""),
        "gone": (gone, "run resnet-zclass export"),
        "a folder": (folder, ""),
    },
    (ONNX, "run/export/model.onnx"),
    (LITERT, "run/export/model.tflite"),
)  # fmt: skip
each(ONNX, "run/model.keras", {
    "an export of another model": (instead("several/model.keras"), "model.onnx", "--overwrite"),
})  # fmt: skip

EVALUATIONS = {
    "metrics.json": {
        "empty": (EMPTY, "evaluate the run"),
        "binary": (BINARY, "evaluate the run"),
        "a list": (put("[]"), "evaluate the run"),
        "no accuracy": (facts(accuracy=None), "evaluate the run"),
        "accuracy is a word": (facts(accuracy="good"), "evaluate the run"),
        "a score is a word": (facts(mae_um="good"), "evaluate the run"),
        "gone": (gone, "evaluate the run"),
    },
    "predictions.csv": {
        "empty": (EMPTY, "evaluate the run"),
        "binary": (BINARY, "evaluate the run"),
        "a column is missing": (without("true_label"), "evaluate the run"),
        "no probability": (without("p_01"), "evaluate the run"),
        "a probability is a word": (cell("p_01", "high"), "evaluate the run"),
        "a probability is empty": (cell("p_01", None), "evaluate the run"),
        "an unknown label": (cell("true_label", "77"), "evaluate the run"),
        "a row is missing": (table(lambda t: t[1:]), "evaluate the run"),
        "gone": (gone, "evaluate the run"),
    },
}  # fmt: skip
for file, faults in EVALUATIONS.items():
    cross(faults, ("report run", f"run/evaluation/{file}"))
each("report run run --save_path out/c.html", "run/evaluation/metrics.json", {
    "two runs, one spoilt": (EMPTY, "metrics.json"),
    "a score is a word in two runs": (facts(mae_um="good"), "run"),
})  # fmt: skip
each("report run run --save_path out/c.html", "run/evaluation/predictions.csv", {
    "other predictions are spoilt in two runs": (BINARY, "predictions.csv"),
})  # fmt: skip

SPOT_TABLES = {
    "empty": (EMPTY, "columns y,x"),
    "binary": (BINARY, "columns y,x"),
    "UTF-16": (put("y,x\n30,30\n".encode("utf-16")), "columns y,x"),
    "no rows": (put("y,x\n"), "no positions"),
    "a column is missing": (without("x"), "expected y,x"),
    "a column twice": (put("y,x,X\n1,2,3\n"), "twice"),
    "a word": (cell("y", "top"), "no position"),
    "an empty place": (cell("y", None), "no position"),
    "infinite": (cell("y", "inf"), "no position"),
    "frame is not whole": (cell("frame", "0.5"), "count 0, 1, 2"),
    "frame is negative": (cell("frame", "-1"), "count 0, 1, 2"),
    "frame is infinite": (cell("frame", "inf"), ""),
    "gone": (gone, "does not exist"),
}  # fmt: skip
cross(SPOT_TABLES, (f"{SPOTS} spots.csv", "spots.csv"), (f"{STACK} --spots spots.csv", "spots.csv"))
each(f"{SPOTS} spots.csv", "spots.csv", {
    "beyond the movie": (cell("frame", "99"), "--spots", "frame 99"),
    "of no movie": (put("y,x,source\n1,1,b.tif\n"), "a.tif", "no row's source"),
})  # fmt: skip
each(f"{STACK} --spots spots.csv", "spots.csv", {
    "outside": (cell("y", "999"), "--spots", "outside the field"),
})  # fmt: skip
each(f"{TRACKS} spots.csv", "spots.csv", {
    "no frames": (without("frame"), "spots.csv", "frame"),
})  # fmt: skip
cross(
    {
        "empty": (EMPTY, "XML"),
        "text": (TEXT, "XML"),
        "binary": (BINARY, "XML"),
        "cut": (cut(0.7), "XML"),
        "no spots": (put("<TrackMate/>"), "no positions"),
        "entities": (put('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'), "XML"),
        "a word": (edit('POSITION_X="30"', 'POSITION_X="left"'), "no position"),
        "no position": (edit('POSITION_X="30"', ""), "no position"),
        "no frame": (edit('FRAME="1"', ""), "count 0, 1, 2"),
        "a unit that is none": (edit('"pixel"', '"parsec"'), "micron"),
        "an encoding that is none": (edit("UTF-8", "UTF-9"), "XML"),
    },
    (f"{TRACKS} spots.xml", "spots.xml"),
)  # fmt: skip
each(f"{PREDICT} new/a.tif --spots spots.xml", "spots.xml", {
    "in um": (edit('"pixel"', '"um"'), "a.tif", "--pixel_um"),
})  # fmt: skip

cross(
    {
        "text": (TEXT, "TOML"),
        "binary": (BINARY, "TOML"),
        "UTF-16": (put("planes = 3\n".encode("utf-16")), "TOML"),
        "unknown": (put("[simulate]\nplaness = 3\n"), "planes meant"),
        "unknown command": (put("[simulat]\n"), "simulat"),
        "a word": (put("[simulate]\nplanes = 'three'\n"), "--planes"),
        "a table in a table": (put("[simulate.planes]\na = 3\n"), "planes"),
        "a list of tables": (put("[[simulate]]\nplanes = 3\n"), "simulate"),
        "a date": (put("[simulate]\nplanes = 2026-01-01\n"), "--planes"),
        "nested lists": (put("[simulate]\nphotons = [[1, 2], 3]\n"), "--photons"),
        "too few": (put("[simulate]\nphotons = [1]\n"), "--photons"),
        "yes for a number": (put("[simulate]\nplanes = true\n"), "planes"),
    },
    ("simulate --data_path out/set --opts opts.toml", "opts.toml"),
)  # fmt: skip
for content, option in (("planes = 0", "--planes"), ("z_step_um = inf", "--z_step_um"), ("seed = 1e30", "--seed")):
    add(
        f"simulate, opts.toml: {content}",
        "simulate --data_path out/set --opts opts.toml",
        (option,),
        "opts.toml",
        put(content),
    )

each(f"{PRETRAIN} out/a.weights.h5", "out/a.weights.h5.parts/recipe.json", {
    "a recipe is text": (TEXT, "recipe.json", "remove it"),
})  # fmt: skip


def begun(spoil):
    """A pretraining that has begun, of which one file is spoilt."""

    def spoil_begun(path):
        claim_folder(path.parent, parse_options("pretrain", f"{PRETRAIN} out/a.weights.h5".split()[1:]))
        spoil(path)

    return spoil_begun


HALF, HISTORY = f"{PRETRAIN} out/a.weights.h5", "out/a.weights.h5.parts/history.csv"
ONE_EPOCH = begun(put("epoch,loss,val_loss\n1,2,2\n"))
each(HALF, HISTORY, {
    "a history is binary": (begun(BINARY), "history.csv", "begin anew"),
    "weights are gone": (ONE_EPOCH, "epoch_0001.weights.h5", "begin anew"),
})  # fmt: skip
JOB = "predict --load_logs_path run new --dask_scheduler local --pred_save_path out/job"
each(JOB, "out/job/_job/job.json", {
    "a job is text": (TEXT, "out/job", "remove the folder"),
    "a job is another's": (put('{"command": "other"}'), "out/job", "--overwrite"),
})  # fmt: skip

# Options of every command: none, unknown, of the wrong kind, out of range, contradictory.
MISSING = {
    "simulate": "--data_path",
    "make_dataset": "--source_path",
    "pretrain": "--save_path",
    "evaluate": "--load_logs_path",
    "predict": "--load_logs_path",
    "save_non_multi_gpu_model": "--weights_path",
    "export": "--load_logs_path",
    "serve": "serve RUN",
}
for name, option in MISSING.items():
    add(f"{name}: nothing", name, (option, "missing"))
for words in (
    "train --data_path=",
    "simulate --data_path=",
    "evaluate --load_logs_path=",
    "predict --load_logs_path= a",
):
    add(f"{words}: empty", words, ("missing",))
for name in COMMANDS:
    add(f"{name}: unknown option", f"{name} --no_such_thing 3", ("--no_such_thing",))
    add(f"{name}: stray word", f"{name} --quux=3 a", ("--quux",))
# What cannot be asked for: words of a command, and beside them further words and parts of the message.
OPTIONS = {
    "completion": [
        ("fish", "fish", "tcsh"),
        ("bash zsh", "zsh"),
    ],
    "simulate": [
        ("--data_path out/set --opts set", "--opts", "presets"),
    ],
    SPOTS: [
        ("new", "new", ".xml"),
    ],
    "report": [
        ("nowhere", "nowhere", "folder of a run"),
        ("run --evaluation evaluation_val", "evaluation_val", "evaluate the run"),
        ("", "report RUN"),
        ("run --save_path out/c.html", "--save_path"),
        ("run run --save_path set/manifest.csv", "manifest.csv", "--overwrite"),
        ("run run --save_path set", "set", "is a folder"),
        ("run run --save_path spots.csv/c.html", "spots.csv", "is a file"),
    ],
    "predict": [
        (
            "--load_logs_path several --engine onnx --pred_save_path out/p.csv new_cells",
            "--engine onnx",
            "run resnet-zclass export",
        ),
    ],
    BARE: [
        ("old/new.keras", "new.keras", "height"),
        ("old", "old", "finished run"),
    ],
    IMAGES: [
        ("spots.csv", "spots.csv", "--layout images"),
    ],
    f"{SIMULATE} --data_path out/s": [
        ("--planes three", "--planes"),
        ("--planes 1", "--planes"),
        ("--planes", "--planes"),
        ("--z_step_um 0", "--z_step_um"),
        ("--z_step_um nan", "--z_step_um"),
        ("--photons 9 3", "--photons"),
        ("--photons 9", "--photons"),
        ("--fractions 1 1 1", "--fractions"),
        ("--na 2", "--na"),
        ("--na 0", "--na"),
        ("--index 0", "--"),
        ("--aberrations coma", "--aberrations"),
        ("--aberrations coma=much", "--aberrations"),
        ("--aberrations quux=1", "quux"),
        ("--shift_px 99", "--shift_px"),
        ("--pinhole_au -1", "--pinhole_au"),
        ("--ceiling_crops -1", "--ceiling_crops"),
        ("--camera_offset 0", "--camera_offset"),
        ("--source_path out/s", "--source_path"),
        ("--source_path out/f --field_px 8", "--field_px"),
        ("--source_path out/f --beads_per_field 999", "--beads_per_field"),
        ("--source_path set", "set", "--overwrite"),
        ("--source_path spots.csv", "spots.csv", "is a file"),
    ],
    SIMULATE: [
        ("--data_path set", "set", "--overwrite"),
        ("--data_path stacks --overwrite", "stacks", "another name"),
        ("--data_path spots.csv", "spots.csv", "is a file"),
        ("--data_path spots.csv/s", "spots.csv", "is a file"),
        ("--data_path /sys/s", "/sys"),
        ("--source_path /sys/s", "/sys"),
        (f"--data_path out/{'s' * 300}", "name too long"),
    ],
    STACK: [
        ("--source_path png/a", "png/a", "--layout"),
        ("--source_path nowhere", "nowhere"),
        ("--planes 99", "--planes"),
        ("--crop_px 99", "--crop_px"),
        ("--z_step_um -1", "--z_step_um"),
        ("--min_distance_px -1", "--min_distance_px"),
        ("--fractions 0.5 0.5 0.5", "--fractions"),
        ("--fractions nan 0.5 0.5", "--fractions"),
        ("--train_num 1", "--train_num"),
        ("--train_num -1 --val_num 1", "--train_num"),
        ("--train_num 999 --val_num 1", "--train_num"),
        ("--group_regex (", "--group_regex"),
        ("--group_regex nothing", "--group_regex"),
        ("--layout film", "--layout"),
        ("--channels _a _b", "--channels"),
        ("--seed -1", "--seed"),
        ("--dask_workers 2", "--dask_workers"),
        ("--dask_scheduler nowhere.json", "--dask_scheduler"),
        ("--dask_scheduler local --dask_workers 0", "--dask_workers"),
        ("--dask_scheduler spots.csv", "spots.csv"),
        ("--data_path set", "set", "--overwrite"),
        ("--data_path spots.csv", "spots.csv", "is a file"),
        ("--data_path run --overwrite", "manifest.csv"),
        ("--data_path /sys/s", "/sys"),
        ("--spots nowhere.csv", "nowhere.csv"),
    ],
    CLASS: [
        ("--spots spots.csv", "--spots"),
        ("--split region", "--split"),
        ("--dask_scheduler local", "--layout"),
    ],
    f"{IMAGES} png": [
        ("--channels _a", "_a"),
        ("--crop_px 99", "--crop_px"),
    ],
    PRETRAIN: [
        ("out/a.h5", "NAME.weights.h5"),
        ("out/a.weights.h5 --epochs 0", "--epochs"),
        ("out/a.weights.h5 --microscopes 9", "--microscopes"),
        ("out/a.weights.h5 --episodes 0", "--episodes"),
        ("out/a.weights.h5 --processes 0", "--processes"),
        ("out/a.weights.h5 --model_name Quux", "Quux"),
        ("out/a.weights.h5 --stem_stride 0", "--stem_stride"),
        ("out/a.weights.h5 --learning_rate -1", "--learning_rate"),
        ("old/new.weights.h5", "new.weights.h5", "--overwrite"),
        ("spots.csv/b.weights.h5", "spots.csv"),
        ("/sys/b.weights.h5", "/sys"),
    ],
    TRAIN: [
        ("nowhere", "nowhere"),
        ("spots.csv", "spots.csv"),
        ("new", "new", "train, val, test"),
    ],
    f"{TRAIN} set": [
        ("--epochs many", "--epochs"),
        ("--batch_size 0", "--batch_size"),
        ("--model_name ResNet21", "ResNet21"),
        ("--model_name Quux", "Quux"),
        ("--weights nowhere.h5", "nowhere.h5"),
        ("--weights psf", "--weights psf"),
        ("--weights run", "model.keras"),
        ("--num_class 7", "--num_class"),
        ("--loss quux", "quux"),
        ("--loss asymmetric", "asymmetric"),
        ("--optimizer quux", "quux"),
        ("--learning_rate -1", "--learning_rate"),
        ("--learning_rate nan", "--learning_rate"),
        ("--fine_tune_learning_rate 0", "--fine_tune_learning_rate"),
        ("--schedule quux", "--schedule"),
        ("--monitor val_samples_f1", "--monitor"),
        ("--monitor quux", "--monitor"),
        ("--thresholds fit", "--thresholds"),
        ("--freeze quux", "--freeze"),
        ("--freeze 9999", "--freeze"),
        ("--stem quux", "--stem"),
        ("--thin 2", "--thin"),
        ("--camera_offset 65000", "--camera_offset"),
        ("--blur_px 1", "--blur_px"),
        ("--oversample 77", "77"),
        ("--group nowhere", "--group"),
        ("--group_regex (", "--group_regex"),
        ("--folds 1", "--folds"),
        ("--folds 999", "--folds"),
        ("--keep_val --folds 1", "--folds"),
        ("--gpus 2", "--gpus"),
        ("--workers 0", "--workers"),
        ("--resume --overwrite", "--resume"),
        ("--im_size 3", "--im_size"),
        ("--warmup_epochs 3", "--warmup_epochs"),
        ("--channels _a", "_a"),
        ("--label_table spots.csv", "spots.csv", "Id and Target"),
        ("--run_name a/b", "--run_name"),
        ("--save_logs_path spots.csv", "--save_logs_path"),
        ("--save_logs_path . --run_name run", "run", "--overwrite"),
        ("--save_logs_path . --run_name set", "set", "--run_name"),
        ("--save_logs_path . --run_name spots.csv", "spots.csv", "--run_name"),
        ("--save_logs_path /sys", "/sys"),
        ("--save_logs_path . --run_name run --weights run/model.keras --overwrite", "--run_name"),
    ],
    SEVERAL: [
        ("--label_table no.csv", "no.csv", "--label_table"),
        ("--class_names no", "--class_names", "hpa"),
        ("--fractions 2 1 1", "--fractions"),
        ("--folds 99", "--folds"),
    ],
    RESUME: [
        ("--epochs 11", "--epochs"),
        ("--data_path png", "png"),
    ],
    EVALUATE: [
        ("--data_path nowhere", "nowhere"),
        ("--data_path cells", "cells"),
        ("--split quux", "--split"),
        ("--batch_size 0", "--batch_size"),
        ("--average_views", "--average_views"),
        ("--gpus 3", "--gpus"),
        ("--compare_random --split train", "--compare_random"),
    ],
    "evaluate": [
        ("--load_logs_path nowhere", "nowhere"),
        ("--load_logs_path set", "set", "finished run"),
        ("--load_logs_path spots.csv", "spots.csv", "folder"),
    ],
    PREDICT: [
        ("nowhere.tif", "nowhere.tif", "check the name"),
        ("spots.csv", "spots.csv", "ending in .tif"),
        ("", "--inputs"),
        ("new/a.tif --pred_save_path new/a.tif --overwrite", "a.tif", "another name"),
        ("stacks --spots spots.csv --pred_save_path spots.csv --overwrite --any_pixel_size", "spots.csv"),
    ],
    f"{PREDICT} new": [
        ("--engine quux", "--engine"),
        ("--batch_size -3", "--batch_size"),
        ("--pixel_um 0", "--pixel_um"),
        ("--frame_s nan", "--frame_s"),
        ("--smooth", "--smooth"),
        ("--tracks_save_path out/t", "--spots"),
        ("--average_views", "--average_views"),
        ("--pred_save_name out/p.txt", ".npy"),
        ("--pred_save_path new", "new", "is a folder"),
        ("--pred_save_path new/a.tif", "a.tif", "--overwrite"),
        ("--pred_save_path spots.csv/p.csv", "spots.csv", "is a file"),
        ("--pred_save_path /sys/p.csv", "/sys"),
        ("--pred_save_path out/p.npy", "p.npy", "twice"),
        (f"--pred_save_path out/{'p' * 300}.csv", "name too long"),
        ("--pred_save_path run/model.keras --overwrite", "model.keras"),
        ("--dask_workers 3", "--dask_workers"),
    ],
    f"{TRACKS} spots.csv": [
        ("--frame_s -1", "--frame_s"),
        ("--tracks_save_path set", "set", "--overwrite"),
        ("--tracks_save_path set --overwrite", "tracks.csv"),
        ("--tracks_save_path spots.csv", "is a file"),
        ("--tracks_save_path /sys/t", "/sys"),
        ("--tracks_save_path out/p.csv", "out/p.csv"),
    ],
    "predict --load_logs_path run new": [
        ("--dask_scheduler nowhere.json", "nowhere.json"),
        ("--dask_scheduler spots.csv --pred_save_path out/p", "spots.csv"),
        ("--dask_scheduler local --pred_save_path set", "set", "--overwrite"),
        ("--dask_scheduler local --pred_save_path spots.csv", "spots.csv"),
        ("--dask_scheduler local --smooth", "--smooth"),
    ],
    f"{CONVERT} old/whole.hdf5": [
        ("--save_path out/a.onnx", "--save_path"),
        ("--save_path old/whole.hdf5 --overwrite", "--save_path"),
        ("--save_path old/new.keras", "new.keras", "--overwrite"),
        ("--save_path spots.csv/a.keras", "spots.csv", "is a file"),
        ("--save_path /sys/a.keras", "/sys"),
        ("--save_path /sys/a.h5", "/sys"),
        ("--im_size 0", "--im_size"),
    ],
    "save_non_multi_gpu_model": [
        ("--weights_path old/whole.hdf5", "--save_path"),
    ],
    CONVERT: [
        ("old/weights.h5 --architecture old/weights.h5", "weights.h5", "weights alone"),
        ("old/weights.h5", "weights.h5", "--architecture"),
        ("old/weights.h5 --architecture old/model.json --model_name ResNet50", "--architecture", "--model_name"),
        ("old/weights.h5 --model_name ResNet50", "--im_size"),
        ("old/weights.h5 --model_name ResNet51 --im_size 32 --num_class 3", "ResNet51"),
        ("old/whole.hdf5 --modern_names", "--modern_names", "leave it out"),
        ("new", "new", "checkpoint"),
        ("new/a.tif", "a.tif", "HDF5"),
        ("nowhere.h5", "nowhere.h5"),
    ],
    INSPECT: [
        ("nowhere.hdf5", "nowhere.hdf5"),
    ],
    EXPORT: [
        ("--format quux", "--format"),
        ("--format openvino --int8", "--int8"),
        ("--save_path out/a.txt", ".onnx"),
        ("--save_path spots.csv/a.onnx", "spots.csv", "is a file"),
        ("--save_path /sys/a.onnx", "/sys"),
        ("--format tf_saved_model --save_path set", "saved_model.pb"),
        ("--format tf_saved_model --save_path spots.csv", "is a file"),
        ("--format bioimageio", "--author"),
        ("--data_path nowhere", "nowhere"),
        ("--data_path cells", "cells"),
        ("--max_accuracy_drop 2", "--max_accuracy_drop"),
    ],
    f"{EXPORT} --format bioimageio": [
        ("--author A --license MIT --title a", "--title"),
        ("--author A --license MIT --cite a", "--cite"),
        ("--author A --license MIT --documentation nowhere.md", "nowhere.md"),
        ("--author A --license MIT --documentation new", "new"),
        ("--author A --license MIT --documentation new/a.tif", "a.tif", "UTF-8"),
    ],
    "export": [
        ("--load_logs_path run", "model.onnx", "--overwrite"),
        ("--load_logs_path nowhere", "nowhere"),
        ("--load_logs_path nowhere.keras --save_path out/a.onnx", "nowhere.keras"),
        ("--load_logs_path old/new.keras", "--save_path"),
    ],
    "doctor": [
        ("--data_path nowhere", "nowhere"),
        ("--data_path spots.csv", "spots.csv"),
        ("--data_path new", "new"),
    ],
    "doctor --data_path set": [
        ("--num_class 1", "--num_class"),
        ("--fractions 1 2", "--fractions"),
        ("--group_regex (", "--group_regex"),
        ("--im_size 0", "--im_size"),
    ],
    "serve": [
        ("nowhere", "nowhere"),
        ("set", "set", "finished run"),
        ("several", "several", "several files"),
    ],
    "serve run": [
        ("--port 0", "--port"),
        ("--max_upload_mb 0", "--max_upload_mb"),
        ("--engine openvino", "--engine"),
    ],
}
for words, asked in OPTIONS.items():
    for more, *wanted in asked:
        add(f"{' '.join(dict.fromkeys((words.split()[0], words.split()[-1])))}: {more}"[:90], f"{words} {more}", wanted)


@pytest.fixture(scope="module")
def place(drawn_run, several_run, tmp_path_factory):
    return write_place(tmp_path_factory.mktemp("malformed") / "place", drawn_run, several_run)


def take_stock(folder):
    """Digest of every file below a folder; packs of sets, which are made whenever one is read, are left out."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
        if not path.name.endswith(".packed.h5")
    }


def run_words(words):
    """Exit code of a command."""
    name, *argv = words.split()
    return importlib.import_module(f"resnet_zclass.{name}").main(argv)


def test_every_command_is_given_bad_input():
    assert {words.split()[0] for words, *_ in ROWS.values()} == set(COMMANDS)
    assert len(ROWS) >= 160


@pytest.mark.parametrize("name", ROWS)
def test_bad_input_is_told_in_one_line_and_changes_nothing(name, place, tmp_path, monkeypatch, capfd):
    words, path, wanted, spoil = ROWS[name]
    copy_place(place, tmp_path / "here", [*words.split(), path])
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(serve, "time", SimpleNamespace(sleep=pytest.fail))  # a page that is served would not end
    if spoil:
        spoil(Path(path))
    before = take_stock(tmp_path)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        code = run_words(words)
    *others, line = capfd.readouterr().err.splitlines() or [""]
    assert (code, line[:7]) == (2, "error: "), line
    assert [part for part in wanted if part not in line] == [], line
    assert [other for other in others if not other.startswith(("warning: ", "note: "))] == []
    assert [str(warning.message) for warning in warned] == []
    after = take_stock(tmp_path)
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == set()
