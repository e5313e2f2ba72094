"""What can be wrong with a file: functions that spoil the good one at a path; and a place full of good files."""

import contextlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import imageio.v3 as iio
import numpy as np
import pandas as pd
import tifffile
from drawn import draw_crops
from drawn_labels import CHANNELS
from drawn_legacy import ALIKE, draw_values, functional_config, predict, write_parallel
from drawn_stacks import draw_stack, place_grid

from resnet_zclass import engines, evaluate, export
from resnet_zclass.backend import keras, tf
from resnet_zclass.images import write_stack

Spoil = Callable[[Path], object]

LATIN = "LabelText,LabelInteger\nMüller,0\n01,1\n02,2\n".encode("latin-1")
XML = """<?xml version="1.0" encoding="UTF-8"?>
<TrackMate version="7.0"><Model spatialunits="pixel" timeunits="sec"><AllSpots nspots="2"><SpotsInFrame frame="0">
<Spot ID="5" POSITION_X="30" POSITION_Y="30" POSITION_Z="0" FRAME="0" />
<Spot ID="6" POSITION_X="30" POSITION_Y="31" POSITION_Z="0" FRAME="1" /></SpotsInFrame></AllSpots>
<AllTracks><Track TRACK_ID="3"><Edge SPOT_SOURCE_ID="5" SPOT_TARGET_ID="6" /></Track></AllTracks></Model></TrackMate>
"""


def put(content: str | bytes) -> Spoil:
    """The file holds this instead, or is there with it."""

    def spoil(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


EMPTY, TEXT, BINARY = put(b""), put("this is no such file\n"), put(bytes(range(256)) * 9)


def cut(share: float) -> Spoil:
    """The file ends after this share of its bytes."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def edit(old: str, new: str) -> Spoil:
    """Other words in a text file, which must have been there."""

    def spoil(path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return spoil


def gone(path: Path) -> None:
    """There is nothing."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def folder(path: Path) -> None:
    """A folder has the name of the file."""
    path.unlink(missing_ok=True)
    path.mkdir()


def dangling(path: Path) -> None:
    """A link that leads nowhere has the name of the file."""
    path.unlink()
    path.symlink_to("nowhere")


def instead(other: str) -> Spoil:
    """The file is that of another kind, whose path beside it this is."""
    return lambda path: shutil.copyfile(other, path)


def pixels(change: Callable[[np.ndarray], np.ndarray], **options) -> Spoil:
    """A TIFF of changed pixels; `options` as of `tifffile.imwrite`."""
    options = {"photometric": "minisblack"} | options
    return lambda path: tifffile.imwrite(path, change(tifffile.imread(path)), **options)


def one_pixel(value: complex, dtype: str) -> Spoil:
    """A TIFF of another type with one odd pixel."""

    def change(image: np.ndarray) -> np.ndarray:
        image = image.astype(dtype)
        image.flat[image.size // 2] = value
        return image

    return pixels(change)


def mixed_pages(path: Path) -> None:
    """A TIFF whose last page is of another shape."""
    image = tifffile.imread(path)
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, photometric="minisblack")
        writer.write(image[-1, 1:], photometric="minisblack")


def png(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """An image of changed pixels."""
    return lambda path: iio.imwrite(path, change(iio.imread(path)))


def table(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Spoil:
    """A table of changed text, in Excel or CSV by its name."""

    def spoil(path: Path) -> None:
        if path.suffix == ".xlsx":
            change(pd.read_excel(path, dtype=str)).to_excel(path, index=False)
        else:
            change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)

    return spoil


def cell(column: str, value: str | None, row: int = 0) -> Spoil:
    """A table with another value in one place."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[row, column] = value
        return frame

    return table(change)


def without(column: str) -> Spoil:
    """A table that lacks a column."""
    return table(lambda frame: frame.drop(columns=column))


def facts(**changes) -> Spoil:
    """A JSON object with other values; what is None is taken out."""

    def spoil(path: Path) -> None:
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return spoil


def member(name: str, spoil: Callable[[bytes], bytes] | None = None) -> Spoil:
    """A zip file in which one file is another, or missing where there is no function of its bytes."""

    def change(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            files = {info.filename: archive.read(info) for info in archive.infolist()}
        content = files.pop(name)
        with zipfile.ZipFile(path, "w") as archive:
            for key, value in (files | ({name: spoil(content)} if spoil else {})).items():
                archive.writestr(key, value)

    return change


def arrays(change: Callable[[dict], dict]) -> Spoil:
    """An `.npz` file of changed arrays."""

    def spoil(path: Path) -> None:
        with np.load(path) as file:
            content = dict(file)
        np.savez(path, **change(content))

    return spoil


def hdf5(change: Callable[[h5py.File], object]) -> Spoil:
    """A changed HDF5 file."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return spoil


def pickled(path: Path) -> None:
    """An `.npz` file of Python objects, which are never read."""
    np.savez(path, x=np.array([{}], dtype=object), y=np.array([{}], dtype=object))


def write_place(path: Path, drawn_run: Path, several_run: Path) -> Path:
    """A folder of good files of every kind; runs and commands name them as from within it."""
    path.mkdir()
    shutil.copytree(drawn_run.parent, path, dirs_exist_ok=True)
    (path / "beads").rename(path / "run")
    shutil.copytree(several_run.parent, path, dirs_exist_ok=True)
    for name, old in (("run", drawn_run.parent / "set"), ("several", several_run.parent / "cells")):
        edit(str(old), old.name)(path / name / "opts.toml")
    _write_images(path)
    _write_models(path)
    with contextlib.chdir(path):
        assert evaluate.main(["--load_logs_path", "run"]) == 0
        for name in engines.SERVING:
            assert export.main(["--load_logs_path", "run", "--format", name]) == 0
    return path


def copy_place(path: Path, here: Path, names: list[str]) -> None:
    """Copies of what is named, and of the sets that named runs were trained on; links to all else of a place."""
    roots = {name.partition("/")[0] for name in names}
    roots |= {"set" for _ in roots & {"run"}} | {"cells" for _ in roots & {"several"}}
    here.mkdir()
    for good in path.iterdir():
        if good.name.partition(".packed")[0] not in roots and good.name not in roots:
            (here / good.name).symlink_to(good)
        elif good.is_dir():
            shutil.copytree(good, here / good.name)
        else:
            shutil.copyfile(good, here / good.name)


def _write_images(path: Path) -> None:
    crops, _ = draw_crops(n_per_class=2)
    (path / "new").mkdir()
    write_stack(path / "new" / "a.tif", crops)
    shutil.copytree(path / "cells", path / "new_cells", ignore=lambda *_: [f.name for f in (path / "cells").iterdir()])
    for channel in CHANNELS:
        shutil.copyfile(path / "cells" / f"0000-cell{channel}.png", path / "new_cells" / f"0000-cell{channel}.png")
    (path / "stacks").mkdir()
    stack = draw_stack(place_grid(2, 2), 10, seed=0)
    write_stack(path / "stacks" / "a.tif", stack, z_step_um=0.1)
    (path / "pages").mkdir()
    for k in range(3):
        write_stack(path / "pages" / f"{k:02d}.tif", crops[2 * k : 2 * k + 2])
    for suffix in (".png", ".jpg", ".bmp"):
        for label in "ab":
            (path / suffix[1:] / label).mkdir(parents=True)
            for i, image in enumerate(crops[:3]):
                iio.imwrite(path / suffix[1:] / label / f"{label}{i}{suffix}", image.clip(0, 255).astype("uint8"))
        for split in ("train", "val", "test"):
            shutil.copytree(path / suffix[1:], path / f"split_{suffix[1:]}" / split)
    shutil.copytree(path / "set", path / "set2")
    labels = path / "set2" / "class-labels.xlsx"
    pd.read_excel(labels, dtype=str).to_csv(labels.with_suffix(".csv"), index=False)
    labels.unlink()
    (path / "spots.csv").write_text("y,x,frame,track\n30,30,0,1\n31,30,1,1\n")
    (path / "spots.xml").write_text(XML)
    (path / "opts.toml").write_text("[simulate]\nplanes = 3\n")


def _write_models(path: Path) -> None:
    values = draw_values(ALIKE)
    (path / "old").mkdir()
    write_parallel(path / "old" / "whole.hdf5", ALIKE, values)
    write_parallel(path / "old" / "weights.h5", ALIKE, values, whole=False)
    (path / "old" / "model.json").write_text(json.dumps(functional_config(ALIKE)))
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, activation="softmax")])
    model.save(path / "old" / "new.keras")
    model.save_weights(path / "old" / "new.weights.h5")
    x = np.ones((2, 5), "float32")
    np.savez(path / "old" / "check.npz", x=x, y=predict(ALIKE, values, x))
    (path / "old" / "ckpt").mkdir()
    tf.train.Checkpoint(model=model).save(str(path / "old" / "ckpt" / "ckpt"))
    model.export(str(path / "old" / "saved"), verbose=False)
