import threading
import time

import numpy as np
import pandas as pd
import pytest

from resnet_zclass import growing
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


def frames():
    """Tables of every type of column that predictions have, and of some that they have not."""
    first, second = tables()
    rng = np.random.default_rng(0)
    n = 500
    usual = pd.DataFrame({"file": [f"a {k % 3}.tif" for k in range(n)], "page": range(n), "z_um": rng.normal(size=n)})
    usual[["p_0", "p_1"]] = rng.dirichlet([0.1, 0.1], n).astype("float32")
    return {
        "usual": usual,
        "nothing known of z": usual.assign(z_um=np.nan),
        "quoted and missing": second.assign(q=[None, 'a,"'], r=["", "\r"]),
        "numbers of every size": pd.DataFrame({"a": 10.0 ** np.arange(-20, 20), "b": np.float32(1 / 3)}),
        "other types": pd.DataFrame({"a": [True, None], "b": [1, "x"], "c": np.float16([1 / 3, 2])}),
        "a single column": pd.DataFrame({"a": ["", None, "x"]}),
        "pages that are no integers": second.assign(page=pd.array([1, None], "Int64")),
        "no rows": usual[:0],
        "an index of its own": usual[::-7],
        "names that stand twice": pd.concat([first, first], axis=1),
    }


@pytest.mark.parametrize("kind", frames())
def test_rows_are_written_as_pandas_does(kind):
    table = frames()[kind]
    assert growing.write_rows(table) == table.to_csv(index=False, header=False).encode()


def test_work_is_done_behind_in_order_and_one_at_a_time():
    going, done = threading.Semaphore(0), []

    def work(k):
        assert going.acquire(timeout=60)
        done.append((k, threading.current_thread() is threading.main_thread()))

    with growing.working_behind(work) as call:
        call(0)
        assert not done  # the caller goes on meanwhile
        going.release(3)
        call(1)
        assert done[0] == (0, False)
        call(2)
    assert [k for k, _ in done] == [0, 1, 2]


@pytest.mark.parametrize("when", ["at the next call", "at the end"])
def test_what_fails_behind_is_raised(when):
    def work(k):
        raise OSError("disk full")

    calls = []
    with pytest.raises(OSError, match="disk full"), growing.working_behind(work) as call:
        for k in range(1 if when == "at the end" else 3):
            calls.append(k)
            call(k)
    assert calls == [0] if when == "at the end" else [0, 1]


def test_nothing_is_written_any_more_when_the_block_was_left(tmp_path):
    """The file is removed when the block fails; the writer must be done by then."""
    before = threading.active_count()
    with (
        pytest.raises(KeyboardInterrupt),
        growing_table(tmp_path / "a.csv") as append,
        growing.working_behind(lambda table: (time.sleep(0.2), append(table))) as call,
    ):
        call(tables()[0])
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    assert threading.active_count() == before
