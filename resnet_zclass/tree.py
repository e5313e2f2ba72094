"""The tree of a set with one label per image: `{train,val,test}/CLASS/*`, its classes, files and manifest."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import lazy_loader as lazy
import numpy as np

from resnet_zclass.channels import group_channels
from resnet_zclass.errors import InputError
from resnet_zclass.images import IMAGE_SUFFIXES, check_name
from resnet_zclass.labels import LABEL_TABLES, READ_TEXT, read_label_table
from resnet_zclass.splits import SPLITS

pd = lazy.load("pandas")

CLUTTER = ("Thumbs.db", "desktop.ini")  # that systems leave in folders of images


def find_splits(path: Path) -> dict[str, Path]:
    """Folders of the splits that a tree has; `validation` is read as `val`."""
    names = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}
    found = {split: [path / name for name in names[split] if (path / name).is_dir()] for split in SPLITS}
    if len(found["val"]) > 1:
        raise InputError(f"{path} holds both val and validation, which mean the same; move one away.")
    return {split: folders[0] for split, folders in found.items() if folders}


def has_planes(path: Path) -> bool:
    """Whether the manifest of a tree speaks of z planes."""
    try:
        with (path / "manifest.csv").open(encoding="utf-8") as file:
            return "plane" in file.readline().strip().split(",")
    except (OSError, UnicodeDecodeError):
        return False


def read_classes(path: Path, folders: Mapping[str, Path]) -> "pd.DataFrame":
    """The classes of a tree: `LabelText`, `LabelInteger`, from its label table or the folder names of its first split.

    Args:
        path: The tree.
        folders: Folder of every split.

    Raises:
        InputError: If table and folders disagree, or there are fewer than two classes.
    """
    named = {split: {f.name for f in folder.iterdir() if f.is_dir()} for split, folder in folders.items()}
    table_path = next((path / name for name in LABEL_TABLES if (path / name).is_file()), None)
    first = next(iter(folders))
    if table_path is None:
        print(f"{path} has no {LABEL_TABLES[0]}: the classes are the sorted folder names of {first or path.name}.")
        texts = sorted(named[first])
        classes = pd.DataFrame({"LabelText": texts, "LabelInteger": range(len(texts))})
    else:
        classes = read_label_table(table_path)
    known = set(classes.LabelText)
    for split, names in named.items():
        if names - known:
            strange = folders[split] / min(names - known)
            raise InputError(f"{strange}: this class is not in {table_path or folders[first]}; add it, or move it.")
    missing = [text for text in classes.LabelText if not any(text in names for names in named.values())]
    if missing:
        raise InputError(f"{table_path or path}: label {missing[0]!r} has no folder in {', '.join(folders)}.")
    if len(classes) < 2:
        raise InputError(f"{path}: a classifier wants two classes at least. Received: {len(classes)}.")
    return classes


def list_tree(
    path: Path, folders: Mapping[str, Path], labels: Sequence[str], channels: Sequence[str] = ()
) -> "pd.DataFrame":
    """Lists the images of a tree.

    Args:
        path: The tree.
        folders: Folder of every split.
        labels: Names of the classes.
        channels: As of `channels.group_channels`.

    Returns:
        Table of one row per image: `split`, `label`, `file` (its first, relative to `path`) and `files`.

    Raises:
        InputError: If a class has an empty folder, or a folder holds what is no image.
    """
    rows = []
    for split, folder in folders.items():
        for label in labels:
            if (folder / label).is_dir():
                place = (folder / label).relative_to(path).as_posix()
                images = _group_names(folder / label, channels)
                files = [[f"{place}/{name}" for name in names] for names in images]
                rows += [(split, label, image, image[0]) for image in files]
    return pd.DataFrame(rows, columns=["split", "label", "files", "file"])


def _group_names(folder: Path, channels: Sequence[str]) -> list[list[str]]:
    """Names of the files of every image of a folder."""
    names = list_folder(folder)
    if not channels:  # paths of 100,000 files take longer to make than to list
        return [[name] for name in names]
    images = group_channels([folder / name for name in names], channels)
    return [[file.name for file in files] for files in images.values()]


def list_folder(folder: Path) -> list[str]:
    """Names of the image files of a folder, sorted, in which nothing else may lie but clutter and tables (`.csv`).

    Raises:
        InputError: If there is none, or something else.
    """
    files = sorted(
        name
        for name in (entry.name for entry in os.scandir(folder))
        if not name.startswith(".") and name not in CLUTTER and not name.endswith(".csv")
    )
    strange = [name for name in files if not name.lower().endswith(IMAGE_SUFFIXES)]
    for name in files:
        check_name(name)
    if strange:
        raise InputError(f"{folder / strange[0]} is no image that is read ({', '.join(IMAGE_SUFFIXES)}); move it away.")
    if not files:
        raise InputError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}); fill or remove it.")
    return files


def join_manifest(path: Path, items: "pd.DataFrame", group: str = "group") -> "pd.DataFrame":
    """Adds what `manifest.csv` knows of every crop; without one, a multi-page file's pages are groups of their own.

    Args:
        path: The tree.
        items: Table of one row per crop: `split,label,file,page`.
        group: Column of the manifest that becomes `group`.

    Raises:
        InputError: If manifest and images disagree, or it lacks a column.
    """
    manifest_path = path / "manifest.csv"
    if not manifest_path.is_file():
        if group != "group":
            raise InputError(f"--group {group} names a column of {manifest_path}, which is not there.")
        return items.assign(group=[f"{file}:{page}" for file, page in zip(items.file, items.page, strict=True)])
    try:
        text = {name: str for name in ("label", "group", "split", "source", "file")}
        manifest = pd.read_csv(manifest_path, dtype=text, **READ_TEXT)
        if (manifest.page.astype(float) % 1 != 0).any():
            raise ValueError("a page is not whole")
        manifest["page"] = manifest.page.astype(int)
        if group not in manifest:
            raise InputError(f"{manifest_path} has no column {group}; --group is one of {', '.join(manifest)}.")
        manifest["group"] = manifest[group].astype("string").astype(object)
        numbers = [name for name in ("plane", "z_um") if name in manifest]
        manifest[numbers] = manifest[numbers].astype(float)
        if manifest[["split", "label", "group"]].isna().any(axis=None) or np.isinf(manifest[numbers]).any(axis=None):
            raise ValueError("a split, label or group is empty, or a number is infinite")
        if any(manifest[name].isna().nunique() > 1 for name in numbers):
            raise ValueError("plane or z_um is empty in some rows only")
        joined = items.merge(
            manifest, on=["file", "page"], how="left", validate="one_to_one", indicator=True, suffixes=("", "_said")
        )
    except (KeyError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{manifest_path} wants columns split,label,file,page,group and one row per image: {error}"
        ) from error
    without = joined[joined._merge != "both"]
    if len(without):
        file, page = without.iloc[0][["file", "page"]]
        raise InputError(f"{manifest_path} has no row for page {page} of {file}; make the set again or remove it.")
    if len(manifest) > len(items):
        gone = sorted(set(manifest.file) - set(items.file)) or sorted(set(manifest.file))
        raise InputError(f"{manifest_path} has rows for images that are not there, for instance in {gone[0]}.")
    said = joined[(joined.split_said != joined.split) | (joined.label_said != joined.label)]
    if len(said):
        row = said.iloc[0]
        raise InputError(f"{manifest_path} says {row.split_said}/{row.label_said} of {row.file}; mend or remove it.")
    return joined.drop(columns=["_merge", "split_said", "label_said"])
