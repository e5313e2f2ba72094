"""Real trainings, killed and gone on with; `python tests/kills.py --runs 40` does it at more moments."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_training_that_is_stopped_in_any_way_comes_to_the_same_end(tmp_path):
    call = [sys.executable, str(Path(__file__).with_name("kills.py")), "--runs", "3", "--kills", "3", "--seed", "2"]
    done = subprocess.run([*call, "--json", str(tmp_path / "rows.json")], capture_output=True, text=True)
    rows = json.loads((tmp_path / "rows.json").read_text()) if done.returncode in (0, 1) else done.stderr
    assert [row["odd"] for row in rows] == [[], [], []]
    assert len({way for row in rows for way, *_ in row["stops"]}) >= 3
