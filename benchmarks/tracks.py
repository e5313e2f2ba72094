"""Beads that diffuse and flow in a simulated movie: z, error bars, smoothing and velocities against the known truth.

`python -m benchmarks.tracks RUN` takes a run that was trained on a simulated set (such as the demo's), simulates a
movie of its microscope, predicts it with its spots and tracks, and compares. z is drawn on no grid of planes.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import report, run_command
from resnet_zclass.camera import digitise, draw_electrons
from resnet_zclass.images import write_stack
from resnet_zclass.limit import bound_z
from resnet_zclass.optics import compute_spectra, draw_images
from resnet_zclass.runs import read_run
from resnet_zclass.scene import Scene, draw_beads, read_scene

FIELD_PX, PATCH_PX, GRID_UM = 512, 64, 0.02
FLOW_UM = (0.0, 0.05, 0.01)  # along y, x and z from frame to frame
DIFFUSION_UM = 0.03  # standard deviation along each axis from frame to frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--beads", type=int, default=25)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the movie, spots and tracks; default a temporary one")
    arguments = parser.parse_args()
    scene, focus_um = read_scene(read_run(arguments.run).options.data_path)
    with tempfile.TemporaryDirectory() as tmp:
        folder = arguments.keep or Path(tmp)
        folder.mkdir(parents=True, exist_ok=True)
        truth = simulate_movie(folder, scene, focus_um, arguments.beads, arguments.frames, arguments.seed)
        rows = []
        for name, words in (("as predicted", []), ("smoothed", ["--smooth"])):
            common = ["--load_logs_path", arguments.run, folder / "movie.tif", "--pred_save_path", folder / "p.csv"]
            common += ["--spots", folder / "movie.csv", "--tracks_save_path", folder / "tracks", "--overwrite"]
            run_command(["-m", "resnet_zclass.predict", *common, *words])
            rows.append({"z": name} | compare(folder, truth))
            report("tracks", rows, beads=arguments.beads, frames=arguments.frames)


def simulate_movie(folder: Path, scene: Scene, focus_um: float, n_beads: int, n_frames: int, seed: int) -> pd.DataFrame:
    """Writes `movie.tif` and `movie.csv`; returns the truth: one row per bead and frame, with the bound on z."""
    rng = np.random.default_rng(seed)
    pixel_um, reach_um = scene.optics.pixel_um, scene.z_um[-1]
    beads = draw_beads(scene, rng, n_beads, 0.0, 0.0)
    side = int(np.ceil(np.sqrt(n_beads)))
    places = (np.stack(np.divmod(np.arange(n_beads), side), axis=1) + 0.5) * FIELD_PX / side
    steps = np.array(FLOW_UM) + DIFFUSION_UM * rng.standard_normal((n_frames, n_beads, 3))
    paths = np.cumsum(steps, axis=0) - steps[0]
    z = np.round((paths[..., 2] + rng.uniform(-0.6, 0.0, n_beads) * reach_um) / GRID_UM) * GRID_UM
    z = np.clip(z, -reach_um, reach_um)
    y, x = (places[:, axis] + paths[..., axis] / pixel_um for axis in (0, 1))
    grid = np.arange(-reach_um - GRID_UM, reach_um + 1.5 * GRID_UM, GRID_UM)
    whole = compute_spectra(scene.optics, grid, PATCH_PX / 2 + 1, focus_um)
    below, spectra, above = (
        dataclasses.replace(whole, values=whole.values[part], z_um=whole.z_um[part])
        for part in (slice(None, -2), slice(1, -1), slice(2, None))
    )
    background = np.mean(scene.background)
    movie = np.zeros((n_frames, FIELD_PX, FIELD_PX), np.uint16)
    for frame in range(n_frames):
        light = np.full((FIELD_PX + PATCH_PX,) * 2, background)
        top, left = (np.round(values[frame]).astype(int) - PATCH_PX // 2 for values in (y, x))
        plane = np.round((z[frame] + reach_um) / GRID_UM).astype(int)
        patches = draw_images(spectra, plane, y[frame] - top, x[frame] - left, PATCH_PX)
        rows, columns = top + PATCH_PX // 2, left + PATCH_PX // 2
        for patch, photons, row, column in zip(patches, beads[:, 2], rows, columns, strict=True):
            light[row : row + PATCH_PX, column : column + PATCH_PX] += photons * patch
        inner = light[PATCH_PX // 2 : -PATCH_PX // 2, PATCH_PX // 2 : -PATCH_PX // 2]
        movie[frame] = digitise(draw_electrons(rng, np.maximum(inner, 0), scene.camera), scene.camera)
    write_stack(folder / "movie.tif", movie, pixel_um=pixel_um)
    frames, tracks = np.meshgrid(np.arange(n_frames), np.arange(n_beads), indexing="ij")
    columns = {"frame": frames, "y": y, "x": x, "track": tracks, "z": z}
    truth = pd.DataFrame({name: values.ravel() for name, values in columns.items()})
    truth.drop(columns="z").to_csv(folder / "movie.csv", index=False)
    middle = (scene.crop_px - 1) / 2
    theta = np.column_stack([np.full((len(truth), 2), middle), beads[truth.track, 2], np.full(len(truth), background)])
    plane = np.round((truth.z + reach_um) / GRID_UM).astype(int).to_numpy()
    return truth.assign(bound=bound_z(below, spectra, above, plane, theta, scene.crop_px, scene.camera.variance))


def compare(folder: Path, truth: pd.DataFrame) -> dict:
    """Errors of z and of the velocities, from the spots as they were written back."""
    spots = pd.read_csv(folder / "tracks" / "movie.csv")
    error, inside = spots.z_um - truth.z, spots.z_um.notna()
    tracks = pd.read_csv(folder / "tracks" / "tracks.csv")
    slopes = truth[inside].groupby("track").apply(lambda own: np.polyfit(own.frame, own.z, 1)[0], include_groups=False)
    wrong = tracks.set_index("track").velocity_z_um_per_frame - slopes
    return {
        "spots": int(inside.sum()),
        "RMSE z (um)": float(np.sqrt((error[inside] ** 2).mean())),
        "bound (um)": float(np.sqrt((truth.bound[inside] ** 2).mean())),
        "bias z (um)": float(error[inside].mean()),
        "error / z_um_sd": float(np.sqrt(((error / spots.z_um_sd)[inside] ** 2).mean())),
        "velocity z (um/frame)": float(tracks.velocity_z_um_per_frame.mean()),
        "its bias": float(wrong.mean()),
        "its standard error": float(wrong.std() / np.sqrt(len(wrong))),
    }


if __name__ == "__main__":
    main()
