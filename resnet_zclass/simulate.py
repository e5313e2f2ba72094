"""Simulates fluorescent beads at known z: labelled crops, and whole stacks to find beads in.

What is drawn (positions, brightness, noise) comes from NumPy generators seeded by `seed` and the part of the work,
so that the result does not depend on how many cores share it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader as lazy
import numpy as np

from resnet_zclass.camera import Camera, digitise, draw_electrons
from resnet_zclass.ceiling import measure_ceilings
from resnet_zclass.chunks import map_chunks
from resnet_zclass.command import command
from resnet_zclass.errors import InputError
from resnet_zclass.fields import check_fields, write_fields
from resnet_zclass.files import check_replaceable, whole_folder
from resnet_zclass.loader import write_dataset
from resnet_zclass.optics import Optics, Spectra, compute_spectra, draw_images, parse_aberrations
from resnet_zclass.options import SimulateOptions
from resnet_zclass.ranges import check_range
from resnet_zclass.scene import RECORD_NAME, Scene, draw_beads, is_recorded, write_record
from resnet_zclass.splits import SPLITS, split_by_group

if TYPE_CHECKING:
    from pandas import DataFrame

pd = lazy.load("pandas")

TRUTH = ["y", "x", "photons", "background"]


@command("simulate")
def main(options: SimulateOptions) -> None:
    """Runs the command: see `--help`."""
    if not (options.data_path or options.source_path):
        raise InputError("--data_path is missing (or --source_path, for stacks alone).")
    scene = Scene(
        optics=_choose_optics(options),
        camera=Camera(options.camera_offset, options.camera_gain, options.read_noise),
        planes=options.planes,
        z_step_um=options.z_step_um,
        crop_px=options.crop_px,
        photons=options.photons,
        background=options.background,
        seed=options.seed,
    )
    least = 5 * scene.camera.gain * scene.camera.read_noise
    if scene.camera.offset < least:  # the ceiling's likelihood knows no counts cut off at 0
        raise InputError(f"--camera_offset {scene.camera.offset:g} cuts read noise off at 0; give {least:g} or more.")
    if options.data_path and options.source_path:  # neither is written if the other cannot be
        if Path(options.data_path).absolute() == Path(options.source_path).absolute():
            raise InputError("--data_path and --source_path are the same folder; give two.")
        check_fields(scene, options.n_fields, options.field_px, options.beads_per_field, options.z_spread_um)
        check_replaceable(options.source_path, options.overwrite, mark=RECORD_NAME)
    if options.data_path:
        write_set(
            options.data_path,
            scene,
            per_class=options.per_class,
            fractions=options.fractions,
            shift_px=options.shift_px,
            ceiling_crops=options.ceiling_crops,
            overwrite=options.overwrite,
            options=_to_record(options),
        )
    if options.source_path:
        write_fields(
            options.source_path,
            scene,
            n_fields=options.n_fields,
            field_px=options.field_px,
            beads_per_field=options.beads_per_field,
            z_spread_um=options.z_spread_um,
            overwrite=options.overwrite,
            options=_to_record(options),
        )


def simulate_demo(
    options: SimulateOptions, data_path: str = "./train_data/demo", source_path: str = "./source_images/demo"
) -> None:
    """Simulates the set and stacks that `options` describe, unless they are there from the same options.

    Raises:
        InputError: If one of the folders holds something else.
    """
    data_path = "" if is_recorded(data_path, _to_record(options)) else data_path
    source_path = "" if is_recorded(source_path, _to_record(options)) else source_path
    if data_path or source_path:
        main.__wrapped__(dataclasses.replace(options, data_path=data_path, source_path=source_path))


def write_set(
    data_path: str | Path,
    scene: Scene,
    *,
    per_class: int,
    fractions: Sequence[float],
    shift_px: float,
    ceiling_crops: int,
    overwrite: bool = False,
    options: dict[str, Any] | None = None,
) -> dict[str, dict[str, float]]:
    """Simulates a labelled set of crops and writes it, with `simulation.json`: options, focus, ceilings.

    Args:
        data_path: Folder to write.
        scene: What is simulated; its planes are the classes.
        per_class: int >= 1, crops of every plane.
        fractions: Shares of train, val and test; they sum to 1.
        shift_px: How far beads lie off the centre of their crop at most, in y and in x, in pixels.
        ceiling_crops: Test crops for the ceiling with unknown position and brightness; 0: none.
        overwrite: Whether what is there is replaced.
        options: Options to keep in `simulation.json`.

    Returns:
        What `measure_ceilings` says of the test split; nothing if there is none.

    Raises:
        InputError: If a value cannot be, or `data_path` is taken.

    >>> import tempfile
    >>> scene = Scene(Optics(na=0.5), planes=2, z_step_um=8.0, crop_px=16)
    >>> with tempfile.TemporaryDirectory() as tmp:  # doctest: +ELLIPSIS
    ...     ceiling = write_set(
    ...         f"{tmp}/set", scene, per_class=5, fractions=(0.6, 0.2, 0.2), shift_px=1.0, ceiling_crops=0
    ...     )
    written to ...: 10 crops of 2 planes (6 train, 2 val, 2 test)
    the best accuracy possible on test: ...
    """
    check_range("shift_px", shift_px, 0, scene.crop_px / 2 - 1)
    check_range("ceiling_crops", ceiling_crops, 0)
    with whole_folder(data_path, overwrite, mark=RECORD_NAME) as folder:
        spectra = compute_spectra(scene.optics, scene.z_um, reach_px=scene.crop_px / 2 + shift_px)
        crops, manifest = simulate_crops(scene, spectra, per_class, fractions, shift_px)
        classes = pd.DataFrame({"LabelText": scene.labels, "LabelInteger": range(scene.planes)})
        write_dataset(folder, crops, manifest, classes)
        test = manifest[manifest.split == "test"]
        ceiling = {}
        if len(test):
            ceiling = measure_ceilings(
                spectra,
                crops[test.index],
                scene.camera,
                test.plane.to_numpy(),
                test[TRUTH].to_numpy(),
                n_unknown=ceiling_crops,
                search_px=shift_px + 1,
            )
        write_record(folder, scene, spectra.focus_um, options or {}, ceiling=ceiling)
    counts = ", ".join(f"{np.sum(manifest.split == split)} {split}" for split in SPLITS)
    print(f"written to {data_path}: {len(crops)} crops of {scene.planes} planes ({counts})")
    if ceiling:
        print(f"the best accuracy possible on test: {_describe_ceiling(ceiling)}")
    return ceiling


def simulate_crops(
    scene: Scene, spectra: Spectra, per_class: int, fractions: Sequence[float], shift_px: float
) -> tuple[np.ndarray, DataFrame]:
    """Simulates crops of one bead each, every bead once.

    Args:
        scene: What is simulated.
        spectra: Spectra of its planes.
        per_class: int >= 1, crops of every plane.
        fractions: Shares of train, val and test, the same in every plane.
        shift_px: How far beads lie off the centre of their crop at most, in y and in x, in pixels.

    Returns:
        Crops `(N, crop_px, crop_px)`, uint16, plane by plane, N = planes times `per_class`; and their manifest:
        `split,label,group,source,plane,z_um`, the true centre `y,x` in the crop in pixels (pixel (0, 0) is centred
        at 0, 0) and the true `photons,background`.

    >>> scene = Scene(Optics(na=0.5), planes=2, z_step_um=2.0, crop_px=16)
    >>> spectra = compute_spectra(scene.optics, scene.z_um, reach_px=10)
    >>> crops, manifest = simulate_crops(scene, spectra, per_class=5, fractions=(0.6, 0.2, 0.2), shift_px=1.0)
    >>> crops.shape, manifest.split.value_counts().to_dict()
    ((10, 16, 16), {'train': 6, 'val': 2, 'test': 2})
    """
    check_range("per_class", per_class, 1)
    bead_rng, split_rng = np.random.default_rng([scene.seed, 0]), np.random.default_rng([scene.seed, 1])
    n, crop_px = scene.planes * per_class, scene.crop_px
    plane = np.repeat(np.arange(scene.planes), per_class)
    truth = draw_beads(scene, bead_rng, n, (crop_px - 1) / 2, shift_px)
    group = np.array([f"bead{i:06d}" for i in range(n)])
    seeds = split_rng.integers(2**31, size=scene.planes)
    split = [split_by_group(group[plane == k], fractions, int(seeds[k])) for k in range(scene.planes)]
    crops = np.empty((n, crop_px, crop_px), np.uint16)

    def fill(part: slice) -> None:
        y, x, photons, background = truth[part].T
        image = draw_images(spectra, plane[part], y, x, crop_px)
        expected = photons[:, None, None] * image + background[:, None, None]
        noise_rng = np.random.default_rng([scene.seed, 4, part.start])
        crops[part] = digitise(draw_electrons(noise_rng, np.maximum(expected, 0), scene.camera), scene.camera)

    map_chunks(fill, n, size=256, title="simulating crops")
    manifest = pd.DataFrame({"split": np.concatenate(split), "label": np.array(scene.labels)[plane], "group": group})
    manifest = manifest.assign(source="simulated", plane=plane, z_um=scene.z_um[plane], pixel_um=scene.optics.pixel_um)
    return crops, manifest.assign(**dict(zip(TRUTH, truth.T, strict=True)))


def _choose_optics(options: SimulateOptions) -> Optics:
    return Optics(
        na=options.na,
        wavelength_um=options.wavelength_um,
        index=options.index,
        pixel_um=options.pixel_um,
        aberrations=parse_aberrations(options.aberrations),
        bead_um=options.bead_um,
        pinhole_au=options.pinhole_au,
    )


def _to_record(options: SimulateOptions) -> dict[str, Any]:
    """The options that make two simulations the same: all but where they lie."""
    record = dataclasses.asdict(options)
    return {name: value for name, value in record.items() if name not in ("data_path", "source_path", "overwrite")}


def _describe_ceiling(ceiling: dict[str, dict[str, float]]) -> str:
    words = {"known": "position and brightness known", "unknown": "unknown"}
    return ", ".join(
        f"{score['accuracy']:.3f} ± {score['standard_error']:.3f} ({words[name]}, {score['n']} crops)"
        for name, score in ceiling.items()
    )


if __name__ == "__main__":
    sys.exit(main())
