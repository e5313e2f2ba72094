"""Imports go one way: a module knows only those in rows above its own."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "resnet_zclass"

ROWS = (
    ("quiet", "cores", "pace"),
    ("errors", "options", "backend", "metrics", "pixels", "progress", "resize", "focus", "blobs",
     "plain_tiffs", "decimals", "calibration", "heat_maps"),
    ("tiffs", "chunks", "epoch_table", "spots", "arrays", "duplicates", "headlines", "highlights", "environment"),
    ("unlike", "extras", "ranges", "files", "groups", "splits", "imbalance", "labels", "schedules", "stems", "warp",
     "losses", "freezing", "batches", "cluster", "images", "beads", "camera", "optics", "keras_h5", "old_configs"),
    ("opts", "growing", "augment", "mixing", "channels", "figures", "backbones", "scene", "ceiling", "crops",
     "array_matching", "resnet_names", "dask_jobs", "distribute", "profiling"),
    ("command", "episodes", "job_folder", "limit", "sorted_crops", "gallery", "live", "models", "pack", "tree",
     "fields", "rebuild", "tf_checkpoints", "views"),
    ("completion", "crop_jobs", "page", "thumbnails", "baseline", "pretrain", "callbacks", "loader", "gather",
     "engines", "stripping"),
    ("runs", "preview", "diagnosis", "training_state", "simulate", "make_dataset", "checkpoints", "export_formats"),
    ("stream", "doctor", "inspection", "resumption", "workers", "features"),
    ("predictions",),
    ("predict_jobs", "tracks"),
    ("predict", "serve", "rounds", "quantise", "save_non_multi_gpu_model"),
    ("trust", "comparison"),
    ("report",),
    ("evaluate", "prepare"),
    ("folds", "classifier"),
    ("train", "bioimageio_package"),
    ("export",),
    ("__main__",),
)  # fmt: skip
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def modules_used_by(source: str) -> set[str]:
    """Modules of the package that are imported, or reached as `rz.module` or `resnet_zclass.module`."""
    used = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("resnet_zclass"):
            parts = node.module.split(".")
            named = {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
            used |= named - {"__version__"}
        elif isinstance(node, ast.Import):
            used |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("resnet_zclass.")}
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("rz", "resnet_zclass")
        ):
            used.add(node.attr)
    return used


@pytest.mark.parametrize("name", MODULES)
def test_a_module_knows_only_those_above_it(name):
    assert name in ROW_OF, f"{name} has no row in ROWS"
    used = modules_used_by((PACKAGE / f"{name}.py").read_text())
    wrong = {other for other in used if ROW_OF[other] >= ROW_OF[name]}
    assert not wrong


def test_every_module_can_be_reached_from_the_package():
    import resnet_zclass

    assert set(MODULES) - {"__main__"} == set(resnet_zclass.__all__) - {"__version__"}


def test_imports_in_every_form_are_seen():
    source = "import resnet_zclass.a\nfrom resnet_zclass import b\nfrom resnet_zclass.c import x\nrz.d.f()"
    assert modules_used_by(source) == {"a", "b", "c", "d"}


def test_only_distribute_knows_the_strategies_of_tensorflow():
    knowing = {name for name in MODULES if "tf.distribute" in (PACKAGE / f"{name}.py").read_text()}
    assert knowing == {"distribute"}


def test_only_the_backend_and_those_behind_it_import_tensorflow():
    heavy = {"keras", "tensorflow"}
    importers = set()
    for name in MODULES:
        for node in ast.parse((PACKAGE / f"{name}.py").read_text()).body:
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
            )
            if isinstance(node, ast.Import | ast.ImportFrom) and heavy & {n.split(".")[0] for n in names}:
                importers.add(name)
    assert importers == set()  # backend does so within a block
