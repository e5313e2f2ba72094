"""How long the commands take to answer `--help`, and the package to import, against a bare interpreter."""

from benchmarks.measure import median_seconds, report
from resnet_zclass.opts import COMMANDS


def main() -> None:
    bare = median_seconds(["-c", "pass"])
    words = {f"{name} --help": ["-m", f"resnet_zclass.{name}", "--help"] for name in COMMANDS}
    words = {"python -c pass": ["-c", "pass"], "import resnet_zclass": ["-c", "import resnet_zclass"]} | words
    rows = []
    for name, command in words.items():
        seconds = median_seconds(command)
        rows.append({"command": name, "seconds": seconds, "times a bare start": seconds / bare})
    report("start", rows)


if __name__ == "__main__":
    main()
