"""Times `make_dataset` on a stack of 71 x 1024 x 512 with 40 beads, and the simulation of 10,000 crops.

Stack: read + find + crop, label and split, check, write; then the picture and the whole command with its imports.
Beside them, what people would write to find blobs alone, `blob_log` of scikit-image on the brightest pixel along z.
`--stack` adds a stack of your own. Reach: 3 s without picture, imports excluded.

Crops: 39 planes 0.1 um apart, 32 x 32 px, the defaults of `simulate`, without ceilings; the same with writing, and the
optics (once per job). Beside them a loop over crops with psfmodels' vectorial point spread function, one call of it
for all planes, each crop moved by a spline and with NumPy's noise. Reach: 5,000 crops/s, with writing too.

The best of `--repeats` runs, in turn; `cpu s` is processor time, which hardly changes when others keep the machine
busy. A minute or two on two cores.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import report, run_command

SHAPE, N_BEADS, N_CROPS, N_LOOP = (71, 1024, 512), 40, 10_000, 1000


def write_field(path: Path, n_beads: int = N_BEADS) -> None:
    """A simulated stack of `SHAPE`, uint16, beads at least a crop from each other and from the border."""
    import resnet_zclass as rz

    planes, height, width = SHAPE
    scene = rz.scene.Scene(planes=planes)
    rng = np.random.default_rng(0)
    yx = np.empty((0, 2))
    while len(yx) < n_beads:
        place = rng.uniform(scene.crop_px, np.array([height, width]) - scene.crop_px, 2)
        if np.all(np.hypot(*(yx - place).T) > 1.5 * scene.crop_px):
            yx = np.vstack([yx, place])
    drawn = rz.scene.draw_beads(scene, rng, n_beads, 0.0, 0.0)
    beads = pd.DataFrame({"y": yx[:, 0], "x": yx[:, 1], "photons": drawn[:, 2], "background": drawn[0, 3], "z_um": 0.0})
    spectra = rz.optics.compute_spectra(scene.optics, scene.z_um, reach_px=scene.crop_px)
    stack = rz.fields.simulate_stack(spectra, scene.camera, beads, scene.z_um, height, seed=[0])  # square
    rz.images.write_stack(path, stack[:, :, :width], scene.z_step_um, scene.optics.pixel_um)


def read_clocks() -> np.ndarray:
    """Wall time and processor time of this process, in s."""
    return np.array([time.perf_counter(), time.process_time()])


def make_set(source: Path, folder: Path) -> dict[str, np.ndarray]:
    """The work of `make_dataset`, stage by stage, wall and processor time in s."""
    from resnet_zclass import crops as cutting
    from resnet_zclass import loader, make_dataset

    clock = [read_clocks()]
    crops = cutting.cut_stacks([source], crop_px=32, planes=39)
    clock.append(read_clocks())
    table = make_dataset.regroup(crops.table, "")
    table["split"] = make_dataset.split_crops(table)
    make_dataset.check_splits(crops.pixels, table)
    clock.append(read_clocks())
    classes = pd.DataFrame({"LabelText": crops.classes, "LabelInteger": range(len(crops.classes))})
    (folder / "a").mkdir()
    loader.write_dataset(folder / "a", crops.pixels, table, classes)
    clock.append(read_clocks())
    (folder / "b").mkdir()
    make_dataset.write_crops(folder / "b", crops, table)
    clock.append(read_clocks())
    find, split, write, both = np.diff(clock, axis=0)
    stages = {"find and crop": find, "label, split, check": split, "write": write}
    return stages | {"without picture": find + split + write, "picture": both - write}


def find_by_blob_log(source: Path) -> dict[str, np.ndarray]:
    """Blobs alone by scikit-image, at the sizes that `make_dataset` looks at."""
    import skimage.feature
    import tifffile

    start = read_clocks()
    field = tifffile.imread(source).max(axis=0).astype("float32")
    field = (field - np.median(field)) / np.ptp(field)
    skimage.feature.blob_log(field, min_sigma=1, max_sigma=5.3, num_sigma=5, threshold=0.02)
    return {"blob_log of scikit-image": read_clocks() - start}


def simulate(folder: Path, n_crops: int) -> dict[str, np.ndarray]:
    """Optics, crops, and a set of them on disk, in s."""
    import resnet_zclass as rz

    scene = rz.scene.Scene()
    start = read_clocks()
    spectra = rz.optics.compute_spectra(scene.optics, scene.z_um, reach_px=scene.crop_px / 2 + 2)
    seconds = {"optics": read_clocks() - start}
    start = read_clocks()
    crops, manifest = rz.simulate.simulate_crops(scene, spectra, -(-n_crops // scene.planes), (0.7, 0.15, 0.15), 2.0)
    seconds["crops"] = read_clocks() - start
    classes = pd.DataFrame({"LabelText": scene.labels, "LabelInteger": range(scene.planes)})
    rz.loader.write_dataset(folder, crops, manifest, classes)
    seconds["crops, written"] = read_clocks() - start
    return seconds


def simulate_by_loop(n_crops: int = N_LOOP) -> np.ndarray:
    """Seconds (wall, processor) per crop of a loop with psfmodels and NumPy."""
    import psfmodels
    import scipy.ndimage

    z_um = (np.arange(39) - 19) * 0.1
    rng = np.random.default_rng(0)
    start = read_clocks()
    # A crop is cut out of a wider image, so that its border is not the image's.
    psf = psfmodels.make_psf(z_um, nx=41, dxy=0.1, NA=1.2, ns=1.33, ni=1.33, wvl=0.6, model="vectorial")
    psf /= psf.sum(axis=(1, 2), keepdims=True)
    for k in range(n_crops):
        image = scipy.ndimage.shift(psf[k % 39], rng.uniform(-2, 2, 2))[4:36, 4:36]
        photons, background = rng.uniform(2000, 10_000), rng.uniform(5, 20)
        counts = rng.poisson(np.maximum(photons * image + background, 0)) + rng.normal(0, 1, image.shape) + 100
        np.clip(np.rint(counts), 0, 65_535).astype("uint16")
    return (read_clocks() - start) / n_crops


def best(results: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The least of every number over several runs."""
    return {name: np.min([result[name] for result in results], axis=0) for name in results[0]}


def time_stacks(sources: dict[str, Path], repeats: int, tmp: Path) -> list[dict]:
    rows = []
    for name, source in sources.items():
        results = []
        for k in range(repeats + 1):  # the first one imports
            (tmp / f"{name}{k}").mkdir()
            results.append(make_set(source, tmp / f"{name}{k}") | find_by_blob_log(source))
        seconds = best(results[1:])
        command = ["-m", "resnet_zclass.make_dataset", "--source_path", source, "--data_path", tmp / f"{name}_set"]
        done = run_command(command)
        seconds["whole command"] = np.array([done["seconds"], done["cpu_seconds"]])
        whole = seconds["without picture"][0]
        for stage, value in seconds.items():
            reach = "<= 3 s" if stage == "without picture" else ""
            row = {"what": f"{name}: {stage}", "s": value[0], "cpu s": value[1], "crops/s": ""}
            rows.append(row | {"ratio": value[0] / whole, "reach": reach})
    return rows


def time_crops(n_crops: int, repeats: int, tmp: Path) -> list[dict]:
    results = []
    for k in range(repeats + 1):
        (tmp / f"crops{k}").mkdir()
        results.append(simulate(tmp / f"crops{k}", n_crops) | {"loop with psfmodels": n_crops * simulate_by_loop()})
    seconds = best(results[1:])
    rows = []
    for stage, value in seconds.items():
        speed = "" if stage == "optics" else n_crops / value[0]
        reach = ">= 5,000 crops/s" if stage.startswith("crops") else ""
        row = {"what": f"{n_crops:,}: {stage}", "s": value[0], "cpu s": value[1], "crops/s": speed}
        rows.append(row | {"ratio": value[0] / seconds["crops"][0], "reach": reach})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", type=Path, help="a stack of your own, timed as the simulated one is")
    parser.add_argument("--beads", type=int, default=N_BEADS)
    parser.add_argument("--crops", type=int, default=N_CROPS)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        write_field(tmp / "field.tif", options.beads)
        sources = {"simulated stack": tmp / "field.tif"}
        sources |= {"own stack": options.stack} if options.stack else {}
        rows = time_stacks(sources, options.repeats, tmp) + time_crops(options.crops, options.repeats, tmp)
    report("make_and_simulate", rows, ratio="to `without picture` of the stack, to `crops` of the crops")


if __name__ == "__main__":
    main()
