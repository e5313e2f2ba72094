"""Work in chunks: all of it done, by no more threads than were allowed."""

import threading
import time

import pytest

from resnet_zclass.chunks import map_chunks


@pytest.mark.parametrize("threads", [1, 2, None])
def test_all_is_done_by_no_more_threads_than_allowed(threads, monkeypatch):
    monkeypatch.setattr("resnet_zclass.chunks.count_cores", lambda: 3)
    done, at_work, most, lock = [], 0, 0, threading.Lock()

    def work(part):
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.02)
        with lock:
            at_work -= 1
            done.extend(range(part.start, part.stop))

    map_chunks(work, n=23, size=2, threads=threads)
    assert sorted(done) == list(range(23))
    assert most == (threads or 3)


def test_an_error_in_a_chunk_is_raised():
    with pytest.raises(ZeroDivisionError):
        map_chunks(lambda part: 1 / (part.start - 4), n=8, size=2)
