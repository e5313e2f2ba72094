"""Runs every sibling preset end to end on real images: train, train further, evaluate, predict.

`python -m benchmarks.sibling_jobs IMAGES --weights resnet50_notop.weights.h5` trains for few epochs, so it shows that
the paths work, not how good they get. IMAGES holds `yeast/PROTEIN/*_{gfp,rfp}.tif`,
`seedlings/{train,validation}/SPECIES/*.png` and `hpa/{train_sample,complete_rgby}`. Of the last only one image has all
four channels; the others lend their green one to all four, so their rows say nothing of the biology.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.measure import report, run_command

HPA_CHANNELS = ("_red", "_green", "_blue", "_yellow")
MAKE_YEAST = ["--channels", "_gfp", "_rfp", "--group_regex", "^([A-Z0-9]+_[0-9]+)_", "--fractions", 0.5, 0, 0.5]

# Of every preset: its set, images to predict, whether the weights file is for it, further options.
JOBS = {
    "yeast": ("yeast", "yeast_set/test", True, []),
    "seedlings": ("seedlings", "seedlings_set/validation", True, ["--head_epochs", 2]),
    "hpa_resnet50": ("hpa", "hpa/complete_rgby", True, ["--head_epochs", 2]),
    "hpa_resnet152": ("hpa", "hpa/complete_rgby", False, []),
    "hpa_inception": ("hpa", "hpa/complete_rgby", False, ["--batch_size", 16]),
    "hpa_cnn": ("hpa", "hpa/complete_rgby", False, []),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--weights", default="none", help="ImageNet weights of ResNet50 without top")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=JOBS, default=list(JOBS))
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        shutil.copytree(arguments.images / "hpa", folder / "hpa")
        shutil.copytree(arguments.images / "seedlings", folder / "seedlings_set")
        lend_green(folder / "hpa", folder / "hpa_set")
        source = ["--layout", "images", "--source_path", arguments.images / "yeast"]
        run("make_dataset", *source, "--data_path", folder / "yeast_set", *MAKE_YEAST)
        for preset in arguments.only:
            rows.append(run_job(preset, folder, arguments.weights, arguments.epochs))
            report("sibling_jobs", rows, epochs=arguments.epochs)


def run(command: str, *words: object) -> float:
    """Runs a command of the package; returns its seconds."""
    return run_command(["-m", f"resnet_zclass.{command}", *words])["seconds"]


def lend_green(source: Path, folder: Path) -> None:
    """Makes a four-channel folder of the image that has four channels and of those with green alone."""
    folder.mkdir()
    for file in (source / "complete_rgby").glob("*.png"):
        shutil.copy(file, folder)
    for file in (source / "train_sample").glob("*_green.png"):
        for channel in HPA_CHANNELS:
            shutil.copy(file, folder / file.name.replace("_green", channel))
    tables = [source / "complete_rgby" / "train.csv", source / "train_sample_labels.csv"]
    pd.concat([pd.read_csv(table)[["Id", "Target"]] for table in tables]).to_csv(folder / "labels.csv", index=False)


def run_job(preset: str, folder: Path, weights: str, epochs: int) -> dict:
    """A preset's row."""
    data, inputs, is_weighted, further = JOBS[preset]
    logs = folder / "logs" / preset
    common = ["--opts", preset, "--data_path", folder / f"{data}_set", "--save_logs_path", logs, "--no_evaluate"]
    common += ["--epochs", epochs, *further]
    first = run("train", *common, "--weights", weights if is_weighted else "none", "--run_name", "first")
    best = logs / "first" / "fine_tune_model" / "best-loss.keras"
    second = run("train", *common, "--head_epochs", 0, "--weights", best, "--run_name", "second")
    split = "val" if data == "seedlings" else "test"
    run("evaluate", "--load_logs_path", logs / "second", "--split", split)
    place = logs / "second" / ("evaluation_val" if split == "val" else "evaluation")
    scores = json.loads((place / "metrics.json").read_text())
    run("predict", "--load_logs_path", logs / "second", folder / inputs, "--pred_save_path", logs / "out.csv")
    judged = "samples_f1" if "samples_f1" in scores else "balanced_accuracy"
    return {
        "preset": preset,
        "images": len(pd.read_csv(logs / "second" / "split.csv")),
        "classes": len(pd.read_csv(logs / "second" / "classes.csv")),
        "train (s)": first,
        "train further (s)": second,
        "judged by": judged,
        "score": scores[judged],
        "baseline": scores[f"baseline_{judged}"],
        "predicted": len(pd.read_csv(logs / "out.csv")),
    }


if __name__ == "__main__":
    main()
