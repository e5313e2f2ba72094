"""Positions of beads that other software found: read from its tables, and written back to them with z filled in."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree  # nosec B405

import defusedxml.ElementTree
import lazy_loader as lazy
import numpy as np

from resnet_zclass.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

pd = lazy.load("pandas")

# What other software calls our columns: TrackMate, trackpy.
NAMES = {"position_y": "y", "position_x": "x", "track_id": "track", "particle": "track"}
MICRONS = ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre", "micrometers")
PIXELS = ("px", "pixel", "pixels", "")
OPTIONAL = ("frame", "track", "source", "unit")
TABLE, XML = ".csv", ".xml"


def read_spots(path: str | Path) -> DataFrame:
    r"""Reads positions of beads from a table or file of TrackMate, or a folder of one for every movie.

    Columns of a CSV are `y,x` in pixels, optionally `frame` and `track`; those of trackpy (`particle`); or those of
    TrackMate (`POSITION_Y,POSITION_X,FRAME,TRACK_ID`), with its further header rows, in pixels or um. An `.xml` is
    TrackMate's own file. In a folder, every file is of the movie that has its stem.

    Returns:
        DataFrame with `y` and `x` (float), and where given `frame` (int), `track` (str, empty for a spot of none),
        `source` (str) and `unit` ("um", where positions are not in pixels); in the order of the file.

    Raises:
        InputError: If the file is missing, lacks these columns, or holds a position that is no number.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     _ = Path(tmp, "spots.csv").write_text("LABEL,POSITION_X,POSITION_Y\nLabel,X,Y\n,(px),(px)\nID1,7.5,3\n")
    ...     read_spots(f"{tmp}/spots.csv").to_dict("records")
    [{'y': 3.0, 'x': 7.5}]
    """
    path = Path(path)
    if path.is_dir():
        files = list_spot_files(path)
        return pd.concat([read_spots(file).assign(source=file.stem) for file in files], ignore_index=True)
    if not path.is_file():
        raise InputError(f"{path} does not exist; --spots wants a CSV with columns y,x.")
    table, unit = _read_xml(path) if path.suffix.lower() == XML else _read_table(path)
    spots = table[["y", "x"]].apply(pd.to_numeric, errors="coerce").astype(float)
    return _checked_spots(table, spots, path).assign(**({"unit": "um"} if unit == "um" else {}))


def list_spot_files(folder: Path) -> list[Path]:
    """The tables and XML files of a folder, sorted; refuses one that has none."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (TABLE, XML))
    if not files:
        raise InputError(f"--spots {folder}: the folder holds no .csv or .xml.")
    return files


def _read_table(path: Path) -> tuple[DataFrame, str]:
    header, rows, n_words = _split_table(path)
    names = [NAMES.get(name.strip().lower(), name.strip().lower()) for name in header]
    if len(set(names)) < len(names):
        raise InputError(f"{path} has a column twice ({', '.join(header)}); expected each once.")
    if not {"y", "x"} <= set(names):
        raise InputError(f"{path} has columns {', '.join(header)}; expected y,x or POSITION_Y,POSITION_X.")
    units = {row[names.index("y")].strip().strip("()").lower() for row in rows[:n_words] if len(row) > names.index("y")}
    table = pd.DataFrame([dict(zip(names, row, strict=False)) for row in rows[n_words:]], columns=names)
    return table, "um" if units & set(MICRONS) else "px"


def _split_table(path: Path) -> tuple[list[str], list[list[str]], int]:
    """Header, the rows below it, and how many of these are TrackMate's further headers, in words and units."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (ValueError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is empty or no CSV; expected columns y,x.") from error
    if "POSITION_X" not in header or "POSITION_Y" not in header:
        return header, rows, 0
    places = [header.index(name) for name in ("POSITION_X", "POSITION_Y")]
    of_numbers = (i for i, row in enumerate(rows[:4]) if all(_is_number(row[k]) for k in places if k < len(row)))
    return header, rows, next(of_numbers, 0)


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _read_xml(path: Path) -> tuple[DataFrame, str]:
    root = _parse(path)
    spots = root.findall(".//AllSpots//Spot")
    track_of = {
        edge.get(end): track.get("TRACK_ID", "")
        for track in root.findall(".//AllTracks/Track")
        for edge in track.findall("Edge")
        for end in ("SPOT_SOURCE_ID", "SPOT_TARGET_ID")
    }
    table = pd.DataFrame(
        {
            "y": [spot.get("POSITION_Y") for spot in spots],
            "x": [spot.get("POSITION_X") for spot in spots],
            "frame": [spot.get("FRAME") for spot in spots],
            "track": [track_of.get(spot.get("ID"), "") for spot in spots],
        }
    )
    model = root.find(".//Model")
    unit = ("" if model is None else model.get("spatialunits", "")).lower()
    if unit not in (*MICRONS, *PIXELS):
        raise InputError(f"{path} has its positions in {unit}; set the movie's unit to micron in TrackMate.")
    return table, "um" if unit in MICRONS else "px"


def _parse(path: Path) -> ElementTree.Element:
    try:
        return defusedxml.ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, defusedxml.DefusedXmlException, ValueError, LookupError) as error:
        # Entities can blow up or name files, and encodings may be unknown.
        raise InputError(f"{path} is no XML file of TrackMate ({error}).") from error


def _checked_spots(table: DataFrame, spots: DataFrame, path: Path) -> DataFrame:
    if not len(spots):
        raise InputError(f"{path} holds no positions.")
    finite = np.isfinite(spots.to_numpy(float)).all(axis=1)
    if not finite.all():
        row = table.iloc[int(np.argmin(finite))]
        raise InputError(f"{path}: y={row['y']!r}, x={row['x']!r} is no position in pixels.")
    if "frame" in table:
        frames = pd.to_numeric(table["frame"], errors="coerce")
        if frames.isna().any() or (frames % 1 != 0).any() or (frames < 0).any():
            raise InputError(f"{path}: column frame must count 0, 1, 2, ...")
        spots = spots.assign(frame=frames.astype(int))
    if "track" in table:
        spots = spots.assign(track=table["track"].fillna("").astype(str).str.strip().str.removesuffix(".0"))
    if "source" in table:
        spots = spots.assign(source=table["source"].fillna("").astype(str).str.strip())
    return spots.reset_index(drop=True)


def spots_of(spots: DataFrame, path: Path) -> DataFrame:
    """The spots of one file: those whose column `source` names it, by path, name or stem; all without that column.

    >>> spots = pd.DataFrame({"y": [1.0, 2.0], "x": 0.0, "source": ["a.tif", "b"]})
    >>> spots_of(spots, Path("fields/b.tif"))["y"].tolist()
    [2.0]

    Raises:
        InputError: If none does.
    """
    if "source" not in spots:
        return spots
    chosen = spots[spots["source"].isin([path.as_posix(), path.name, path.stem])]
    if chosen.empty:
        raise InputError(f"--spots: no row's source names {path}; it wants the file's name, as {path.name}.")
    return chosen


def check_inside(spots: DataFrame, field_shape: tuple[int, int], name: str | Path = "") -> None:
    """Raises `InputError` for the first of `spots` that lies outside a field of `(height, width)` pixels.

    >>> check_inside(pd.DataFrame({"y": [70.0], "x": [3.0]}), (64, 64), "a.tif")
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: --spots: y=70, x=3 lies outside the field of 64 x 64 px a.tif; mend the CSV.
    """
    height, width = field_shape
    outside = ~(spots["y"].between(-0.5, height - 0.5) & spots["x"].between(-0.5, width - 0.5))
    if outside.any():
        y, x = spots.loc[outside, ["y", "x"]].iloc[0]
        field = " ".join(filter(None, [f"{height} x {width} px", str(name)]))
        raise InputError(f"--spots: y={y:g}, x={x:g} lies outside the field of {field}; mend the CSV.")


def to_pixels(spots: DataFrame, pixel_um: float | None, path: Path) -> DataFrame:
    """Spots with positions in pixels, wherever they were in um.

    Raises:
        InputError: If they are in um and the size of a pixel of the movie `path` is not known.
    """
    if "unit" not in spots:
        return spots
    if pixel_um is None:
        raise InputError(
            f"--spots has positions in um, and {path} does not say how large its pixels are; --pixel_um does."
        )
    return spots.assign(y=spots["y"] / pixel_um, x=spots["x"] / pixel_um).drop(columns="unit")


def judge_places(spots: DataFrame, field_shape: tuple[int, int], crop_px: int) -> np.ndarray:
    """Why a spot has no crop: `outside the field`, `too near the border`, or nothing; str array `(N,)`.

    >>> judge_places(pd.DataFrame({"y": [5.0, 1.0, 99.0], "x": 5.0}), (12, 12), crop_px=8).tolist()
    ['', 'too near the border', 'outside the field']
    """
    height, width = field_shape
    y, x = spots["y"].to_numpy(), spots["x"].to_numpy()
    outside = (y < -0.5) | (y > height - 0.5) | (x < -0.5) | (x > width - 0.5)
    top, left = (np.floor(values - (crop_px - 1) / 2 + 0.5) for values in (y, x))  # as `beads.cut_crops` has it
    near = (np.minimum(top, left) < 0) | (top + crop_px > height) | (left + crop_px > width)
    return np.select([outside, near], ["outside the field", "too near the border"], "")


def write_spots(path: Path, out_path: Path, predicted: DataFrame) -> None:
    """Writes the file `path` of spots again with their z, in its order: what is not known stays empty.

    `predicted` has `spot` (number in the file), `z_um`, `z_um_sd`, `reason`; the z of spots that it lacks stays empty.

    A CSV of TrackMate gets z as `POSITION_Z`, and `Z_SD` and `REASON`, others `z_um,z_um_sd,reason`; an XML gets the
    attributes `POSITION_Z` and `Z_SD`, and TrackMate is told of the latter.
    """
    n = len(read_spots(path))
    own = predicted.set_index("spot")[["z_um", "z_um_sd", "reason"]].reindex(range(n)).astype({"reason": object})
    columns = [own.z_um, own.z_um_sd, own.reason.fillna("not predicted")]
    write = _write_xml if path.suffix.lower() == XML else _write_table
    write(path, out_path, [[_to_word(value) for value in column] for column in columns])


def _to_word(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.6g}" if math.isfinite(value) else ""


def _write_table(path: Path, out_path: Path, columns: list[list[str]]) -> None:
    header, rows, n_words = _split_table(path)
    is_trackmate = "POSITION_X" in header
    names = ("POSITION_Z", "Z_SD", "REASON") if is_trackmate else ("z_um", "z_um_sd", "reason")
    words = {
        "POSITION_Z": ("Z", "Z", "(micron)"),
        "Z_SD": ("Z standard deviation", "Z sd", "(micron)"),
        "REASON": ("Reason", "Reason", ""),
    }
    for name, values in zip(names, columns, strict=True):
        above = [(words[name] + ("",))[min(i, 3)] for i in range(n_words)] if is_trackmate else []
        if name in header:
            k = header.index(name)
        else:
            header, k = [*header, name], len(header)
        for row, word in zip(rows, [*above, *values], strict=True):
            row += [""] * (k + 1 - len(row))
            row[k] = word
    with out_path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _write_xml(path: Path, out_path: Path, columns: list[list[str]]) -> None:
    root = _parse(path)
    for spot, z, sd, _ in zip(root.findall(".//AllSpots//Spot"), *columns, strict=True):
        if z:
            spot.set("POSITION_Z", z)
            spot.set("Z_SD", sd)
    features = root.find(".//FeatureDeclarations/SpotFeatures")
    if features is not None and not any(feature.get("feature") == "Z_SD" for feature in features):
        about = {"feature": "Z_SD", "name": "Z standard deviation", "shortname": "Z sd", "dimension": "LENGTH"}
        ElementTree.SubElement(features, "Feature", about | {"isint": "false"})
    ElementTree.ElementTree(root).write(out_path, encoding="UTF-8", xml_declaration=True)
