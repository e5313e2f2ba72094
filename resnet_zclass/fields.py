"""Simulates whole fields of view: stacks of many beads, in which beads have yet to be found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader as lazy
import numpy as np

from resnet_zclass.camera import Camera, digitise, draw_electrons
from resnet_zclass.chunks import map_chunks
from resnet_zclass.errors import InputError
from resnet_zclass.files import whole_folder
from resnet_zclass.images import write_stack
from resnet_zclass.optics import Spectra, compute_spectra, draw_images, interpolate_spectra
from resnet_zclass.ranges import check_range
from resnet_zclass.scene import RECORD_NAME, Scene, draw_beads, write_record

if TYPE_CHECKING:
    from pandas import DataFrame

pd = lazy.load("pandas")

_TRIES = 1000  # places tried in vain before beads may lie closer


def write_fields(
    source_path: str | Path,
    scene: Scene,
    *,
    n_fields: int,
    field_px: int,
    beads_per_field: int,
    z_spread_um: float = 0.0,
    overwrite: bool = False,
    options: dict[str, Any] | None = None,
) -> None:
    """Simulates fields of view and writes each as an ImageJ stack, with the truth in `spots.csv`.

    Args:
        source_path: Folder to write: `field_00.tif` ..., `spots.csv` (`y,x,source,photons,background,z_um`, which
            `--spots` takes as it is) and `simulation.json`.
        scene: What is simulated; page k of a stack is plane k.
        n_fields: int >= 1, stacks.
        field_px: Side of a field in pixels, at least 3 crops.
        beads_per_field: int >= 1.
        z_spread_um: Beads lie up to this far above or below the plane of the others, in um.
        overwrite: Whether what is there is replaced.
        options: Options to keep in `simulation.json`.

    Raises:
        InputError: If a value cannot be, or `source_path` is taken.

    >>> import tempfile
    >>> scene = Scene(planes=2, crop_px=16)
    >>> with tempfile.TemporaryDirectory() as tmp:  # doctest: +ELLIPSIS
    ...     write_fields(f"{tmp}/fields", scene, n_fields=1, field_px=64, beads_per_field=2)
    ...     sorted(path.name for path in Path(tmp, "fields").iterdir())
    written to ...: 1 stacks of 2 planes, 2 beads in each
    ['field_00.tif', 'simulation.json', 'spots.csv']
    """
    check_fields(scene, n_fields, field_px, beads_per_field, z_spread_um)
    with whole_folder(source_path, overwrite, mark=RECORD_NAME) as folder:
        spectra = compute_spectra(scene.optics, _z_grid(scene, z_spread_um), reach_px=2 * scene.crop_px)
        tables, apart_px = [], float(scene.crop_px)
        for k in range(n_fields):
            rng = np.random.default_rng([scene.seed, 2, k])
            yx, apart = place_beads(rng, beads_per_field, field_px, scene.crop_px)
            beads = _describe_beads(scene, rng, yx, z_spread_um).assign(source=f"field_{k:02d}")
            stack = simulate_stack(spectra, scene.camera, beads, scene.z_um, field_px, seed=[scene.seed, 3, k])
            write_stack(folder / f"field_{k:02d}.tif", stack, scene.z_step_um, scene.optics.pixel_um)
            tables, apart_px = [*tables, beads], min(apart, apart_px)
        pd.concat(tables).to_csv(folder / "spots.csv", index=False)
        write_record(folder, scene, spectra.focus_um, options or {})
    print(f"written to {source_path}: {n_fields} stacks of {scene.planes} planes, {beads_per_field} beads in each")
    if apart_px < scene.crop_px:
        print(f"beads lie as near as {apart_px:.1f} px, less than a crop; for more room raise --field_px.")


def check_fields(scene: Scene, n_fields: int, field_px: int, beads_per_field: int, z_spread_um: float) -> None:
    """Raises `InputError` for fields that `write_fields` would refuse; arguments as there."""
    check_range("n_fields", n_fields, 1)
    check_range("beads_per_field", beads_per_field, 1)
    check_range("z_spread_um", z_spread_um, 0)
    if field_px < 3 * scene.crop_px:
        raise InputError(f"--field_px must be 3 times --crop_px {scene.crop_px} or more. Received: {field_px}.")
    if beads_per_field * scene.crop_px**2 > 2 * field_px**2:
        raise InputError(f"--beads_per_field {beads_per_field} do not find room in {field_px} x {field_px} px.")


def simulate_stack(
    spectra: Spectra, camera: Camera, beads: DataFrame, z_um: np.ndarray, field_px: int, seed: Sequence[int]
) -> np.ndarray:
    """Simulates one field of view through focus; a bead is as bright in every plane.

    Args:
        spectra: Spectra at z that cover `z_um` and the beads' own, closely enough to interpolate.
        camera: The camera.
        beads: Table with y and x (pixels), photons, background (photons per pixel, that of the first row counts),
            and z_um, the bead's own z.
        z_um: z of every plane, array `(Z,)`.
        field_px: Side of the field.
        seed: Seed of the noise.

    Returns:
        Array `(Z, field_px, field_px)`, uint16.

    >>> from resnet_zclass.optics import Optics
    >>> spectra = compute_spectra(Optics(na=0.5), [-1.0, 0.0, 1.0], reach_px=20)
    >>> beads = pd.DataFrame({"y": [9.0], "x": [20.0], "photons": [1e6], "background": [5.0], "z_um": [0.0]})
    >>> stack = simulate_stack(spectra, Camera(), beads, np.array([-1.0, 0.0, 1.0]), field_px=30, seed=[0])
    >>> stack.shape, [int(i) for i in np.unravel_index(stack[1].argmax(), stack[1].shape)]
    ((3, 30, 30), [9, 20])
    """
    stack = np.empty((len(z_um), field_px, field_px), np.uint16)
    each = [interpolate_spectra(spectra, z_um + bead.z_um) for bead in beads.itertuples()]

    def fill(part: slice) -> None:
        expected = np.full((part.stop - part.start, field_px, field_px), beads.background.iloc[0], float)
        for bead, own in zip(beads.itertuples(), each, strict=True):
            _add_bead(expected, dataclasses.replace(own, values=own.values[part]), bead)
        electrons = draw_electrons(np.random.default_rng([*seed, part.start]), np.maximum(expected, 0), camera)
        stack[part] = digitise(electrons, camera)

    map_chunks(fill, len(z_um), size=4, title="simulating a field")
    return stack


def place_beads(rng: np.random.Generator, n: int, field_px: int, apart_px: float) -> tuple[np.ndarray, float]:
    """Draws places at least `apart_px` from each other and from the border; nearer together where room is short.

    Args:
        rng: The generator to draw from.
        n: Number of beads.
        field_px: Side of the field in pixels, above `2 * apart_px + 1`.
        apart_px: Distance wished for.

    Returns:
        y and x in pixels, array `(n, 2)`, and the distance that was kept between beads.

    >>> yx, apart_px = place_beads(np.random.default_rng(0), n=5, field_px=200, apart_px=32)
    >>> yx.shape, apart_px
    ((5, 2), 32)
    """
    places, kept_px, tries = np.empty((0, 2)), apart_px, 0
    while len(places) < n:
        place = rng.uniform(apart_px, field_px - 1 - apart_px, 2)
        if np.all(np.hypot(*(places - place).T) >= kept_px):
            places, tries = np.vstack([places, place]), 0
        else:
            tries += 1
            kept_px = kept_px if tries % _TRIES else 0.9 * kept_px
    return places, kept_px


def _add_bead(expected: np.ndarray, spectra: Spectra, bead: Any) -> None:
    """Adds a bead's light to all planes of `expected`, in place."""
    size_px, field_px = spectra.size_px, expected.shape[-1]
    top, left = (round(centre - (size_px - 1) / 2) for centre in (bead.y, bead.x))
    n_z = len(expected)
    light = bead.photons * draw_images(
        spectra, np.arange(n_z), np.full(n_z, bead.y - top), np.full(n_z, bead.x - left), size_px
    )
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + size_px, field_px), min(left + size_px, field_px)
    expected[:, y0:y1, x0:x1] += light[:, y0 - top : y1 - top, x0 - left : x1 - left]


def _z_grid(scene: Scene, z_spread_um: float) -> np.ndarray:
    """The planes themselves, or, where beads lie between them, a grid fine enough to interpolate."""
    if z_spread_um == 0:
        return scene.z_um
    reach_um = scene.z_um[-1] + z_spread_um
    return np.linspace(-reach_um, reach_um, 2 + int(24 * reach_um / scene.optics.depth_um))


def _describe_beads(scene: Scene, rng: np.random.Generator, yx: np.ndarray, z_spread_um: float) -> DataFrame:
    """Table of beads at `yx`, each of its own brightness and z, on the field's one background."""
    drawn = draw_beads(scene, rng, len(yx), 0.0, 0.0)
    z_um = rng.uniform(-z_spread_um, z_spread_um, len(yx))
    table = {"y": yx[:, 0], "x": yx[:, 1], "photons": drawn[:, 2], "background": drawn[0, 3], "z_um": z_um}
    return pd.DataFrame(table)
