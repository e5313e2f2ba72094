import sys
import types

import pytest

from resnet_zclass import live
from resnet_zclass.live import LiveCurves


class FakeDisplay(types.ModuleType):
    """`IPython.display` as far as it is used; remembers what was shown under which id."""

    def __init__(self):
        super().__init__("IPython.display")
        self.calls = []

    def Image(self, data, **_):  # noqa: N802, IPython's name
        return data

    def display(self, image, display_id):
        assert display_id is True
        name = f"id{len(self.calls)}"
        self.calls.append(("display", name, image))
        return types.SimpleNamespace(update=lambda image: self.calls.append(("update", name, image)))


@pytest.fixture
def notebook(monkeypatch):
    """A process that looks like a notebook's kernel; its attribute `calls` is what was shown."""
    ipython, display = types.ModuleType("IPython"), FakeDisplay()
    ipython.display = display
    ipython.version_info = (9, 0)  # at which matplotlib looks when it is first used
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return display


@pytest.fixture
def drawn(monkeypatch):
    """What would be drawn: arguments of every call."""
    calls = []
    monkeypatch.setattr(live.figures, "draw_curves", lambda *args: calls.append(args))
    monkeypatch.setattr(LiveCurves, "_show", lambda self: None)
    return calls


@pytest.fixture
def hasty(monkeypatch):
    """Every epoch is drawn."""
    monkeypatch.setattr(live, "DRAWN_SHARE", float("inf"))


def run_epochs(callback, *logs):
    for epoch, log in enumerate(logs):
        callback.on_epoch_end(epoch, log)


def test_live_curves_change_with_the_epochs(hasty, tmp_path):
    callback = LiveCurves(tmp_path / "live.png", "title")
    pictures = []
    for epoch in range(3):
        callback.on_epoch_end(epoch, {"loss": 1.0 / (epoch + 1), "accuracy": 0.3 * epoch})
        pictures.append((tmp_path / "live.png").read_bytes())
    assert pictures[0][:8] == b"\x89PNG\r\n\x1a\n"
    assert len(set(pictures)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["live.png"]
    callback.on_train_end()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live.png", "live.svg"]


def test_pictures_take_a_hundredth_of_the_time_and_the_last_one_shows_all(drawn, monkeypatch, tmp_path):
    now = [100.0]
    monkeypatch.setattr("resnet_zclass.pace.time.monotonic", lambda: now[0])
    monkeypatch.setattr(LiveCurves, "_show", lambda self: now.__setitem__(0, now[0] + 0.5))  # a picture takes that
    callback = LiveCurves(tmp_path / "live.png")
    for epoch in range(200):
        now[0] += 1
        callback.on_epoch_end(epoch, {"loss": 1.0 / (epoch + 1)})
    assert len(drawn) == 4
    callback.on_train_end()
    assert [call[1].suffix for call in drawn] == [".png"] * 5 + [".svg"]
    assert len(drawn[-2][0]["loss"]) == len(drawn[-1][0]["loss"]) == 200
    callback.on_train_end()
    assert [call[1].suffix for call in drawn].count(".png") == 5  # the last one showed all


def test_a_notebook_shows_one_picture_and_updates_it(hasty, notebook, tmp_path):
    callback = LiveCurves(tmp_path / "live.png")
    pictures = []
    for epoch in range(3):
        callback.on_epoch_end(epoch, {"loss": 1.0 / (epoch + 1)})
        pictures.append((tmp_path / "live.png").read_bytes())
    assert [call[:2] for call in notebook.calls] == [("display", "id0"), ("update", "id0"), ("update", "id0")]
    assert [call[2] for call in notebook.calls] == pictures


def test_the_next_round_has_a_picture_of_its_own(hasty, notebook, tmp_path):
    for name in ("a.png", "b.png"):
        run_epochs(LiveCurves(tmp_path / name), {"loss": 1.0}, {"loss": 0.5})
    assert [call[:2] for call in notebook.calls] == [
        ("display", "id0"),
        ("update", "id0"),
        ("display", "id2"),
        ("update", "id2"),
    ]


@pytest.mark.parametrize("shell", [None, types.SimpleNamespace()])  # no shell; IPython in a terminal
def test_nothing_is_shown_outside_of_a_notebook(shell, notebook, tmp_path):
    sys.modules["IPython"].get_ipython = lambda: shell
    run_epochs(LiveCurves(tmp_path / "live.png"), {"loss": 1.0})
    assert (tmp_path / "live.png").is_file()
    assert not notebook.calls


class NoIPython:
    """An importer that fails for IPython."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "IPython":
            raise AssertionError(f"{name} was imported")


def test_ipython_is_not_imported(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "IPython"]:  # Keras loads it if it can
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoIPython(), *sys.meta_path])
    run_epochs(LiveCurves(tmp_path / "live.png"), {"loss": 1.0})
    assert (tmp_path / "live.png").is_file()


@pytest.mark.parametrize(
    ("monitor", "mode", "values", "best"),
    [
        ("val_loss", "min", [3, 1, 2, 1], 1),
        ("val_accuracy", "max", [0.1, 0.4, 0.6, 0.2], 2),
        ("val_loss", "min", [float("nan"), 5, 4], 2),
        ("val_loss", "min", [float("nan")], None),
    ],
)
def test_the_best_epoch_of_the_monitor_is_marked(monitor, mode, values, best, hasty, drawn, tmp_path):
    run_epochs(LiveCurves(tmp_path / "live.png", "run", monitor, mode), *({monitor: value} for value in values))
    *_, title, _, marked = drawn[-1]
    assert marked == best
    assert title == ("run" if best is None else f"run   best {monitor}: {values[best]:g} at epoch {best + 1}")


@pytest.mark.parametrize(
    ("monitor", "logs", "score"),
    [
        ("val_loss", {"accuracy": 1, "val_accuracy": 1, "val_macro_f1": 1}, "accuracy"),
        ("val_macro_f1", {"accuracy": 1, "val_accuracy": 1, "val_macro_f1": 1}, "macro_f1"),
        ("val_loss", {"accuracy": 1, "val_accuracy": 1, "val_macro_f1": 1, "val_samples_f1": 1}, "macro_f1"),
        ("val_samples_f1", {"val_accuracy": 1, "val_macro_f1": 1, "val_samples_f1": 1}, "samples_f1"),
    ],
)
def test_the_score_is_the_watched_one_or_that_of_the_job(monitor, logs, score, drawn, tmp_path):
    run_epochs(LiveCurves(tmp_path / "live.png", "", monitor, "max"), logs)
    assert drawn[-1][3] == score
