"""The default job from an empty folder to its finished evaluation: time, accuracy, and share of the ceiling."""

import json
import tempfile
from pathlib import Path

from benchmarks.measure import report, run_command


def main() -> None:
    with tempfile.TemporaryDirectory() as tmp:
        result = run_command(["-m", "resnet_zclass.train"], cwd=Path(tmp))
        scores = json.loads((Path(tmp) / "logs" / "ResNet20" / "evaluation" / "metrics.json").read_text())
    report(
        "demo",
        [
            {
                "seconds": result["seconds"],
                "peak GB": result["peak_gb"],
                "accuracy": scores["accuracy"],
                "baseline": scores["baseline_accuracy"],
                "ceiling": scores["ceiling_accuracy"],
                "share of ceiling": scores["accuracy"] / scores["ceiling_accuracy"],
            }
        ],
    )


if __name__ == "__main__":
    main()
