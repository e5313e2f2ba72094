"""Peak memory of `predict` on 20,000 and on 200,000 simulated crops, in one file and in many.

Without a run a small one is trained on a few of the crops first; what it answers does not change the memory.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import report, run_command
from resnet_zclass.images import write_stack

N_CROPS, CROP_PX, PER_FILE, N_CLASSES = (20_000, 200_000), 32, 100, 13
ALLOWED_GB = 0.05  # and a tenth of the peak of the fewer crops


def simulate_crops(n: int) -> np.ndarray:
    """`n` crops `(n, 32, 32)` uint16: a spot of the class's width on a noisy background."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:CROP_PX, :CROP_PX] - (CROP_PX - 1) / 2
    sigma = 1.5 + 0.4 * np.arange(N_CLASSES)[:, None, None]
    spots = 5000 * np.exp(-(y**2 + x**2) / (2 * sigma**2)) / sigma**2 + 10
    crops = np.empty((n, CROP_PX, CROP_PX), "uint16")
    for start in range(0, n, 1000):
        part = crops[start : start + 1000]
        part[:] = rng.poisson(spots[np.arange(start, start + len(part)) % N_CLASSES])
    return crops


def write_inputs(folder: Path, crops: np.ndarray) -> dict[str, Path]:
    """The crops in one TIFF, in one without a word on how many there are, in one compressed, and in many."""
    import tifffile

    paths = {kind: folder / f"{kind}.tif" for kind in ("one file", "plain pages", "compressed")}
    write_stack(paths["one file"], crops)
    tifffile.imwrite(paths["plain pages"], crops, photometric="minisblack", metadata=None)
    tifffile.imwrite(paths["compressed"], crops, photometric="minisblack", compression="zlib")
    paths["many files"] = folder / "many"
    paths["many files"].mkdir()
    for k in range(0, len(crops), PER_FILE):
        write_stack(paths["many files"] / f"{k:07d}.tif", crops[k : k + PER_FILE])
    return paths


def train_run(folder: Path) -> Path:
    """A small network, trained for one epoch."""
    from resnet_zclass.loader import write_dataset

    names = [f"{k:02d}" for k in range(N_CLASSES)]
    n = N_CLASSES * 10
    manifest = pd.DataFrame({"split": (["train"] * 8 + ["val"] * 2) * N_CLASSES, "label": np.repeat(names, 10)})
    order = np.arange(n).reshape(10, N_CLASSES).T.ravel()  # class by class
    (folder / "set").mkdir()
    write_dataset(
        folder / "set",
        simulate_crops(n)[order],
        manifest.assign(group=range(n), source="drawn"),
        pd.DataFrame({"LabelText": names, "LabelInteger": range(N_CLASSES)}),
    )
    words = ["--data_path", folder / "set", "--model_name", "ResNet8", "--epochs", 1, "--no_evaluate"]
    run_command(["-m", "resnet_zclass.train", *words, "--save_logs_path", folder, "--run_name", "run"])
    return folder / "run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load_logs_path", type=Path, help="a run on 32 x 32 uint16 crops of one channel")
    parser.add_argument("--engine", default="keras")
    arguments = parser.parse_args()
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as tmp:
        run_path = arguments.load_logs_path or train_run(Path(tmp))
        few: dict[str, float] = {}
        for n in N_CROPS:
            folder = Path(tmp) / str(n)
            folder.mkdir()
            for kind, path in write_inputs(folder, simulate_crops(n)).items():
                words = ["--load_logs_path", run_path, path, "--engine", arguments.engine, "--overwrite"]
                outputs = ["--pred_save_path", folder / "p.csv", "--pred_save_name", folder / "p.npy"]
                done = run_command(["-m", "resnet_zclass.predict", *words, *outputs])
                assert np.load(folder / "p.npy", mmap_mode="r").shape == (n, N_CLASSES)
                more = done["peak_gb"] - few.setdefault(kind, done["peak_gb"])
                facts = {"peak GB": done["peak_gb"], "more GB": more, "seconds": done["seconds"]}
                rows.append({"input": kind, "crops": n, **facts, "flat": more <= 0.1 * few[kind] + ALLOWED_GB})
                print(rows[-1], flush=True)
    report("predict_memory", rows, engine=arguments.engine, crop_px=CROP_PX, per_file=PER_FILE)


if __name__ == "__main__":
    main()
