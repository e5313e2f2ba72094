"""What setup.cfg says of the package: an installation lacks whatever it forgets."""

import ast
import configparser
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from resnet_zclass import engines, export

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


def test_every_module_that_exports_need_is_in_their_extra(options):
    extra = {normalise(re.split(r"[<>=]", line)[0]) for line in options["options.extras_require"]["export"].split()}
    needed = {name for names in export.NEEDS.values() for name in names} | set(engines.RUNTIMES.values())
    for path in (ROOT / "resnet_zclass").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "need":
                needed |= {word.value for word in node.args if isinstance(word, ast.Constant)}
    assert needed > set(engines.RUNTIMES.values())
    owners = importlib.metadata.packages_distributions()
    assert not {name for name in needed if not extra & set(map(normalise, owners[name.split(".")[0]]))}


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
