"""Converts every checkpoint of a folder of authentic ones and compares it with what the old Keras stored beside it.

    python -m benchmarks.legacy_files FOLDER... [--all]

A folder of a checkpoint holds `truth.npz` (inputs `x`, predictions `y_parallel`, arrays `w|layer|i|variable`), the
checkpoint `weights-best-acc_multi-gpu.hdf5`, the same as weights alone in `parallel_weights_only.hdf5`, the inner model
in `inner_direct_full.hdf5` and `inner_direct_weights.hdf5`, and its configuration in `inner_config.json`. Prints one
line per stack (with `--all` one per file) and writes benchmarks/legacy_files.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.measure import report
from resnet_zclass.backend import keras
from resnet_zclass.checkpoints import open_checkpoint, read_architecture
from resnet_zclass.errors import InputError
from resnet_zclass.keras_h5 import read_keras_h5

WHOLE = ("weights-best-acc_multi-gpu.hdf5", "inner_direct_full.hdf5")
ALONE = ("parallel_weights_only.hdf5", "inner_direct_weights.hdf5")


def convert(folder: Path, name: str) -> dict:
    """What becomes of one file: largest differences of weights and predictions, or why it was refused."""
    row = {"stack": json.loads((folder / "meta.json").read_text())["stack"], "variant": folder.name, "file": name}
    keras.utils.clear_session()
    try:
        architecture = read_architecture(folder / "inner_config.json") if name in ALONE else None
        plain = open_checkpoint(folder / name, architecture)
    except InputError as error:
        return row | {"refused": str(error)}
    truth = np.load(folder / "truth.npz")
    inputs = [truth[key] for key in sorted(truth.files) if key in ("x", "x0", "x1")]
    expected = [truth[key] for key in sorted(truth.files) if key.startswith("y_parallel")]
    found = plain.model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0])
    found = found if isinstance(found, list) else [found]
    differences = [np.abs(a - b).max() for a, b in zip(found, expected, strict=True)]
    return row | {
        "arrays": len(plain.arrays),
        "weights": float(max(_weight_differences(plain, truth, folder))),
        "predictions": float(max(differences)),
        "original_script": json.loads((folder / "meta.json").read_text()).get("nmg_path", {}).get("ok"),
    }


def _weight_differences(plain, truth, folder: Path) -> list[float]:
    stored = {
        (key.split("|")[1].split("/")[-1], key.split("|")[3]): truth[key] for key in truth.files if key[:2] == "w|"
    }
    if not stored:  # of large nets the inner model's own file says which arrays there are, not under which names
        arrays = [a.values for group in read_keras_h5(folder / ALONE[1]).weights.values() for a in group]
        same = sorted(a.tobytes() for a in arrays) == sorted(v.numpy().tobytes() for v in plain.variables)
        return [0.0 if same else float("inf")]
    names = [tuple(variable.path.split("/")[-2:]) for variable in plain.variables]
    return [np.abs(v.numpy() - stored[name]).max() for name, v in zip(names, plain.variables, strict=True)]


def main() -> None:
    """Converts all files of the folders given and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--all", action="store_true", help="one line per file")
    options = parser.parse_args()
    rows = []
    for truth in sorted(path for folder in options.folders for path in folder.rglob("truth.npz")):
        rows += [convert(truth.parent, name) for name in (*WHOLE, *ALONE) if (truth.parent / name).is_file()]
    if options.all:
        for row in rows:
            said = row.get("refused") or f"weights {row['weights']:.3g}  predictions {row['predictions']:.2g}"
            print(f"{row['stack']:<16}{row['variant']:<28}{row['file']:<34}{said}")
    report("legacy_files", [_summarise(stack, rows) for stack in sorted({row["stack"] for row in rows})], files=rows)


def _summarise(stack: str, rows: list[dict]) -> dict:
    here = [row for row in rows if row["stack"] == stack]
    done = [row for row in here if "refused" not in row]
    return {
        "stack": stack,
        "files": len(here),
        "refused": len(here) - len(done),
        "original script failed": sum(row.get("original_script") is False for row in done if row["file"] == WHOLE[0]),
        "weights differ by": max((row["weights"] for row in done), default=float("nan")),
        "predictions differ by": max((row["predictions"] for row in done), default=float("nan")),
    }


if __name__ == "__main__":
    main()
