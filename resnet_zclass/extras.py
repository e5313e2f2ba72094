"""Packages that only some commands need: extras of the installation, asked for when they are first used."""

import importlib
import importlib.util
from collections.abc import Iterable
from types import ModuleType

from resnet_zclass.errors import InputError


def need(module: str, extra: str = "export") -> ModuleType:
    """Imports a module of an extra.

    Raises:
        InputError: If it is not installed.

    >>> need("json").__name__
    'json'
    >>> need("no_such_runtime")
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: no_such_runtime is not installed; pip install 'resnet_zclass[export]'.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(_tell(error.name or module, extra)) from error


def check_installed(modules: Iterable[str], extra: str = "export") -> None:
    """Raises `InputError` for the first of some modules of an extra that is not installed; loads none.

    >>> check_installed(["json", "no_such_scheduler"], extra="dask")
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: no_such_scheduler is not installed; pip install 'resnet_zclass[dask]'.
    """
    for module in modules:
        if not is_installed(module):
            raise InputError(_tell(module, extra))


def is_installed(module: str) -> bool:
    """Whether a module could be imported; it is not."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


def _tell(module: str, extra: str) -> str:
    return f"{module} is not installed; pip install 'resnet_zclass[{extra}]'."
