"""Puts the last table of every benchmark, with its command and versions, into `benchmarks/RESULTS.md`.

The page has a place `<!-- NAME -->` ... `<!-- end NAME -->` for each; what stands between is replaced by what
`benchmarks/NAME.json` holds, if that is there. All other text is written by hand.
"""

import json
import re
from pathlib import Path

from benchmarks.measure import format_value

FOLDER = Path(__file__).parent
PLACE = re.compile(r"<!-- (?P<name>\w+) -->\n.*?<!-- end (?P=name) -->", re.DOTALL)


def write_table(found: dict) -> str:
    """What a benchmark found, in Markdown.

    >>> print(write_table({"rows": [{"a": 1, "b": 0.5}], "command": "python -m benchmarks.x", "machine": {"cores": 2},
    ...     "versions": {"keras": "3"}}))
    | a | b |
    | ---: | ---: |
    | 1 | 0.5 |
    <BLANKLINE>
    `python -m benchmarks.x` on cores 2; keras 3
    """
    columns = list(found["rows"][0])
    lines = [columns, ["---:"] * len(columns)]
    lines += [[format_value(value) for value in row.values()] for row in found["rows"]]
    facts = [", ".join(f"{key} {value}" for key, value in found[part].items()) for part in ("machine", "versions")]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n`{found['command']}` on {facts[0]}; {facts[1]}"


def fill(page: str, folder: Path = FOLDER) -> str:
    """The page with every table that there is in its place."""

    def replace(place: re.Match) -> str:
        path = folder / f"{place['name']}.json"
        if not path.is_file():
            return place[0]
        return f"<!-- {place['name']} -->\n{write_table(json.loads(path.read_text()))}\n<!-- end {place['name']} -->"

    return PLACE.sub(replace, page)


def main() -> None:
    path = FOLDER / "RESULTS.md"
    path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
