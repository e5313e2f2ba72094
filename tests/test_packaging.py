"""What setup.cfg says of the package: an installation lacks whatever it forgets."""

import ast
import configparser
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from resnet_zclass import dask_jobs, engines, export

ROOT = Path(__file__).parents[1]


def normalise(name):
    return name.lower().replace("_", "-")


@pytest.fixture(scope="module")
def options():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_every_file_that_is_no_module_is_installed(options):
    package = ROOT / "resnet_zclass"
    globs = options["options.package_data"]["resnet_zclass"].replace(",", " ").split()
    installed = {path for pattern in globs for path in package.glob(pattern)}
    others = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in others if path.suffix != ".py"} == installed


@pytest.mark.parametrize("extra", ["export", "dask", "tracks"])
def test_every_module_that_is_asked_for_is_in_its_extra(extra, options):
    listed = {normalise(re.split(r"[<>=[]", line)[0]) for line in options["options.extras_require"][extra].split()}
    exports = {name for names in export.NEEDS.values() for name in names} | set(engines.RUNTIMES.values())
    first = {"export": exports, "dask": set(dask_jobs.MODULES), "tracks": set()}[extra]
    needed = set(first)
    for path in (ROOT / "resnet_zclass").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "need":
                (of,) = [word.value.value for word in node.keywords if word.arg == "extra"] or ["export"]
                needed |= set() if of != extra else {word.value for word in node.args if isinstance(word, ast.Constant)}
    assert needed > set(engines.RUNTIMES.values()) if extra == "export" else needed > first
    owners = importlib.metadata.packages_distributions()
    assert not {name for name in needed if not listed & set(map(normalise, owners[name.split(".")[0]]))}


def test_every_distribution_that_is_imported_is_required(options):
    required = {normalise(re.split(r"[<>=]", line)[0]) for line in options["options"]["install_requires"].split()}
    imported = set()
    for path in (ROOT / "resnet_zclass").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.split(".")[0] for name in names}
    imported -= {"", "resnet_zclass", "__future__", *sys.stdlib_module_names}
    owners = importlib.metadata.packages_distributions()
    missing = {name for name in imported if not required & set(map(normalise, owners[name]))}
    assert not missing
