import numpy as np
import pandas as pd
import pytest

from resnet_zclass.growing import growing_array, growing_table


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(1,), (3, 4, 5), (1000, 1, 1000)])
def test_an_array_that_grew_is_the_one_saved_at_once(sizes, dtype, tmp_path):
    rows = np.random.default_rng(0).random((sum(sizes), 3)).astype(dtype)
    with growing_array(tmp_path / "a.npy") as append:
        for part in np.split(rows, np.cumsum(sizes)[:-1]):
            append(part)
    np.save(tmp_path / "b.npy", rows)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), rows)


def test_rows_of_another_shape_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="rows must be"), growing_array(tmp_path / "a.npy") as append:
        append(np.zeros((2, 3)))
        append(np.zeros((2, 4)))
    assert not list(tmp_path.iterdir())


def tables():
    names = ['a "quoted", name', "plain", "two\nlines", "é;"]
    first = pd.DataFrame({"file": names, "p": np.float32([0.1, 1 / 3, 1e-9, 1]), "target": ["0 1", "", "2", "x"]})
    second = pd.DataFrame({"file": names[:2], "p": np.float32([0.5, 0]), "y": [1.5, np.nan], "target": ["", "1"]})
    return first, second


def test_a_table_that_grew_is_the_one_written_at_once(tmp_path):
    first, _ = tables()
    with growing_table(tmp_path / "a.csv") as append:
        append(first[:1])
        append(first[1:])
    first.to_csv(tmp_path / "b.csv", index=False)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_columns_that_come_later_are_empty_before(tmp_path):
    first, second = tables()
    with growing_table(tmp_path / "a.csv") as append:
        append(first)
        append(second)
        append(first.reindex(columns=second.columns))
    whole = pd.concat([first.reindex(columns=second.columns), second, first.reindex(columns=second.columns)])
    whole.to_csv(tmp_path / "b.csv", index=False)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_what_is_interrupted_leaves_nothing_and_no_folder(tmp_path):
    folder = tmp_path / "new" / "deep"
    with (
        pytest.raises(KeyboardInterrupt),
        growing_table(folder / "a.csv") as append_table,
        growing_array(folder / "a.npy") as append_array,
    ):
        append_table(tables()[0])
        append_table(tables()[1])
        append_array(np.zeros((2, 3)))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
