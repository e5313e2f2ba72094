"""How long the commands take to answer `--help`, `predict` to do one image, and the package to import.

Beside a bare interpreter; whole processes, the median of several. Reach: 1 s for `--help`, 4 s for one image by an
export, which loads no TensorFlow. The run is one of a ResNet20 that was never trained, exported beforehand.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.measure import median_seconds, report
from benchmarks.prediction import prepare_apart, write_inputs
from resnet_zclass.opts import COMMANDS

REACH_S = {"--help": 1.0, "onnx": 4.0, "litert": 4.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="processes per command, besides a first one")
    repeats = parser.parse_args().repeats
    words = {"python -c pass": ["-c", "pass"], "import resnet_zclass": ["-c", "import resnet_zclass"]}
    words |= {f"{name} --help": ["-m", f"resnet_zclass.{name}", "--help"] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        prepare_apart(folder, ["ResNet20"])
        image = write_inputs(Path(folder), 1)
        for engine in ("onnx", "litert", "keras"):
            command = ["-m", "resnet_zclass.predict", "--load_logs_path", f"{folder}/ResNet20", image]
            command += ["--pred_save_path", f"{folder}/{engine}.csv", "--engine", engine, "--overwrite"]
            words[f"predict one image, {engine}"] = command
        seconds = {name: median_seconds(command, repeats) for name, command in words.items()}
    rows = []
    for name, taken in seconds.items():
        reach = REACH_S.get(name.split()[-1], "")
        row = {"command": name, "seconds": taken, "times a bare start": taken / seconds["python -c pass"]}
        rows.append(row | {"reach s": reach, "reached": taken < reach if reach else ""})
    report("start", rows, repeats=repeats)


if __name__ == "__main__":
    main()
