"""What a training says while it goes on: lines in pipes, one table on terminals, and the cursor is given back."""

import io
import re

import keras
import numpy as np
import pytest
from rich.console import Console

from resnet_zclass.epoch_table import PLAIN_LEVELS, EpochTable, draw_trend, find_best


def told(epochs, terminal, logs, encoding="utf-8", breaks=False):
    box = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    table = EpochTable("round", console=Console(file=box, force_terminal=terminal, width=100))
    table.set_params({"epochs": epochs, "steps": 3})
    table.on_train_begin()
    for epoch, entry in enumerate(logs):
        table.on_epoch_begin(epoch)
        for step in range(3):
            table.on_train_batch_end(step)
        table.on_epoch_end(epoch, entry)
    table.close() if breaks else table.on_train_end()
    box.flush()
    return box.buffer.getvalue().decode(encoding)


LOGS = [{"loss": 2.0, "val_loss": 3.0}, {"loss": 1.0, "val_loss": 0.25}, {"loss": 0.5, "val_loss": 1.0}]


def test_a_pipe_gets_a_line_per_epoch_without_control_characters():
    lines = told(3, False, LOGS).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert [line.endswith("best") for line in lines] == [True, True, False]
    assert "val_loss 0.25" in lines[1]
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("breaks", [True, False])
def test_a_terminal_gets_one_table_with_the_best_and_its_cursor_back(breaks):
    text = told(3, True, LOGS, breaks=breaks)
    last = text[text.rindex("round  epoch") :]
    row = next(line for line in last.splitlines() if "val_loss" in line)
    cells = [cell.strip() for cell in re.sub(r"\x1b\[[0-9;]*m", "", row).split("│")]
    assert cells[1:-1] == ["val_loss", "1", "0.25", "2", "█▁▃"]
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_a_terminal_without_blocks_gets_letters():
    text = told(3, True, LOGS, encoding="ascii")
    assert draw_trend([2.0, 1.0, 0.5], PLAIN_LEVELS) in text


def test_numbers_that_are_none_are_no_best():
    assert find_best([np.nan, np.inf], "min") is None
    assert find_best([np.nan, 1.0, 2.0], "max") == 2
    assert draw_trend([np.nan, np.nan]) == "  "
    assert draw_trend([1.0, 1.0, 1.0], "ab") == "aaa"


def test_only_the_last_epochs_are_drawn():
    assert len(draw_trend(range(100), longest=30)) == 30


def test_it_goes_with_a_real_fit():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    box = io.StringIO()
    table = EpochTable(monitor="loss", console=Console(file=box))
    model.fit(np.ones((8, 2)), np.ones((8, 1)), epochs=5, initial_epoch=3, verbose=0, callbacks=[table])
    assert [line.split()[1] for line in box.getvalue().splitlines()] == ["4/5", "5/5"]
