"""The page to try a run: it answers as `predict` does, and gives away nothing but what was dropped on it."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pandas as pd
import pytest
import tifffile
from browser import browser, visit  # noqa: F401 - fixtures

from resnet_zclass import engines, serve
from resnet_zclass.errors import InputError
from resnet_zclass.predict import predict_files
from resnet_zclass.runs import read_run

pytest.importorskip("gradio")


@pytest.fixture
def predict(drawn_run):
    return engines.load_engine("keras", drawn_run / "model.keras")


@pytest.fixture
def stack(drawn_run, tmp_path):
    """Crops of the test split in one file."""
    data = read_run(drawn_run).read_own_set()
    path = tmp_path / "crops.tif"
    tifffile.imwrite(path, data.crops[data.indices("test")][..., 0], photometric="minisblack")
    return path


def test_it_answers_as_predict_does(drawn_run, stack, predict):
    run = read_run(drawn_run)
    found, (table, probabilities) = serve.examine_file(run, stack, predict), predict_files(run, [stack])
    np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-6)
    assert set(found.table.file) == {"crops.tif"}  # not the folder that uploads lie in
    pd.testing.assert_frame_equal(found.table.drop(columns="file"), table.drop(columns="file"), rtol=1e-4)


def test_a_long_file_is_cut(drawn_run, stack, predict, monkeypatch):
    monkeypatch.setattr(serve, "MOST_CROPS", 5)
    found = serve.examine_file(read_run(drawn_run), stack, predict)
    assert (len(found.table), len(found.crops), found.is_cut) == (5, 5, True)


def test_what_does_not_suit_the_run_is_refused(drawn_run, predict, tmp_path):
    tifffile.imwrite(tmp_path / "other.tif", np.zeros((16, 16), "uint8"))
    with pytest.raises(InputError, match="uint8"):
        serve.examine_file(read_run(drawn_run), tmp_path / "other.tif", predict)


def test_runs_of_channel_files_are_refused(several_run, capsys):
    assert serve.main([str(several_run)]) == 2
    assert "one per channel" in capsys.readouterr().err


def test_a_page_in_the_browser(drawn_run, stack, visit):  # noqa: F811
    table, _ = predict_files(read_run(drawn_run), [stack])
    with serve.served(read_run(drawn_run), None, max_upload_mb=1) as (_, url):
        assert url.startswith("http://127.0.0.1:")
        page, wrong = visit(url)
        page.locator("input[type=file]").first.set_input_files(stack)
        page.get_by_text(f"{len(table)} images or beads").wait_for(timeout=60_000)
        cells = page.get_by_role("gridcell")
        cells.get_by_text(table.label[0], exact=True).first.wait_for()
        first = page.locator("img[src*='answer']").first.get_attribute("src")
        cells.nth(20).click()
        page.wait_for_function(
            "before => document.querySelector(\"img[src*='answer']\").getAttribute('src') !== before", arg=first
        )
        with page.expect_download() as download:
            page.locator("a[href*='predictions']").last.click()
        kept = pd.read_csv(download.value.path(), dtype={"label": str})
        assert list(kept.label) == list(table.label)
        left = [line for line in wrong if line.startswith("http") and not line.startswith(url)]
        assert left == []
        assert [line for line in wrong if "rror" in line] == []


def get(url: str) -> int:
    try:
        return urllib.request.urlopen(url).status
    except urllib.error.HTTPError as error:
        return error.code


def test_files_that_were_not_dropped_stay_hidden(drawn_run, stack):
    secret = drawn_run / "opts.toml"
    with serve.served(read_run(drawn_run), None, max_upload_mb=1) as (_, url):
        for path in (secret, "/etc/passwd", f"{drawn_run}/../set/manifest.csv", "../../etc/passwd", stack):
            assert get(f"{url}gradio_api/file={path}") in (403, 404)
        for path in (secret, stack):  # asking the page to examine it is no better
            body = {"data": [{"path": str(path), "meta": {"_type": "gradio.FileData"}}], "fn_index": 0,
                    "session_hash": "somebody"}  # fmt: skip
            head = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{url}gradio_api/queue/join", json.dumps(body).encode(), head)
            try:
                urllib.request.urlopen(request).read()
                answer = urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash=somebody").read().decode()
            except urllib.error.HTTPError as error:
                answer = error.read().decode()
            assert '"success":true' not in re.sub(r"\s", "", answer)
            assert "images or beads" not in answer


def test_a_file_that_is_too_large_is_refused(drawn_run, tmp_path):
    with serve.served(read_run(drawn_run), None, max_upload_mb=1) as (_, url):
        edge = b"--edge\r\n"
        body = edge + b'Content-Disposition: form-data; name="files"; filename="a.tif"\r\n\r\n' + bytes(2 * 2**20)
        body += b"\r\n--edge--\r\n"
        head = {"Content-Type": "multipart/form-data; boundary=edge"}
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(f"{url}gradio_api/upload", body, head))
        assert refused.value.code == 413


def test_a_port_that_is_taken_is_an_error(drawn_run):
    run = read_run(drawn_run)
    with serve.served(run, None) as (_, url):
        port = int(url.rsplit(":", 1)[1].strip("/"))
        with pytest.raises(InputError, match=f"--port {port}"), serve.served(run, port):
            pass


def test_ctrl_c_ends_it_with_a_line(drawn_run):
    words = [sys.executable, "-m", "resnet_zclass.serve", str(drawn_run), "--port", str(free_port())]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "http://127.0.0.1:" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told.strip()) == (130, "interrupted")


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]
