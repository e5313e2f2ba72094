"""Mutation testing: how many small faults put into a module do its own tests find?

    python -m benchmarks.mutation [metrics splits save_non_multi_gpu_model] [--minutes 20]

Every mutant is the module with one operator, constant, name or statement changed. A process that has the heavy
packages loaded forks a child for each, which puts the mutant in the module's place and runs the module's tests and
doctests until one fails. Mutants are tried in an order drawn with a fixed seed until the processor time is used up,
shared evenly by the modules. `EQUIVALENT` lists those that no test can tell from the module; they are not tried.
"""

import argparse
import ast
import contextlib
import copy
import importlib
import importlib.util
import itertools
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.measure import report
from benchmarks.mutation_equivalent import EQUIVALENT

ROOT = Path(__file__).parents[1]
# Module: what its tests load that takes long. Loaded only; TensorFlow must not compute before a fork.
MODULES = {
    "metrics": ["sklearn.metrics"],
    "splits": ["numpy.random"],
    "save_non_multi_gpu_model": [
        "sklearn.metrics",
        "resnet_zclass.checkpoints",
        "resnet_zclass.models",
        "drawn_legacy",
    ],
}
SWAPS = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,),
    ast.USub: (ast.UAdd,),
}  # fmt: skip
NAMES = {"min": "max", "argmin": "argmax", "minimum": "maximum", "any": "all", "floor": "ceil"}
NAMES |= {new: old for old, new in NAMES.items()}


def list_mutants(tree: ast.Module) -> Iterator[tuple[str, ast.Module]]:
    r"""All mutants of a module, each with its name: the function, and the lines without and with the change.

    >>> [name for name, _ in list_mutants(ast.parse("def f(a):\n    return a < 1"))]  # doctest: +NORMALIZE_WHITESPACE
    ['f: return a < 1 -> return', 'f: return a < 1 -> return a <= 1', 'f: return a < 1 -> return a >= 1',
     'f: return a < 1 -> return a < 2']
    """
    lines = ast.unparse(tree).splitlines()
    for where, path, new in _list_changes(tree, "", ()):
        mutant = copy.deepcopy(tree)
        parent = mutant
        for field, i in path[:-1]:
            parent = _child(parent, field, i)
        field, i = path[-1]
        ast.copy_location(new, _child(parent, field, i))
        if i is None:
            setattr(parent, field, new)
        else:
            getattr(parent, field)[i] = new
        ast.fix_missing_locations(mutant)
        changed = ast.unparse(mutant).splitlines()
        first = _n_alike(lines, changed)
        last = _n_alike(lines[first:][::-1], changed[first:][::-1])
        old, changed = (" ".join(map(str.strip, text[first : len(text) - last])) for text in (lines, changed))
        yield f"{where}: {old} -> {changed}", mutant


def _n_alike(a: list, b: list) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _child(node: ast.AST, field: str, i: int | None) -> ast.AST:
    return getattr(node, field) if i is None else getattr(node, field)[i]


def _list_changes(node: ast.AST, where: str, path: tuple) -> Iterator[tuple[str, tuple, ast.AST]]:
    """Function, path from the root and new node of every change below a node."""
    is_idle = isinstance(node, ast.If) and ast.unparse(node.test).startswith(("TYPE_CHECKING", "__name__"))
    if is_idle or isinstance(node, ast.Raise):
        return  # what does not run in tests, and words of errors
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        where = f"{where}.{node.name}".lstrip(".")
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for i, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                yield from ((where, (*path, (field, i)), new) for new in _alternatives(child))
                if not (isinstance(child, ast.keyword) and child.arg == "axis"):
                    yield from _list_changes(child, where, (*path, (field, i)))


def _alternatives(node: ast.AST) -> list[ast.AST]:
    match node:
        case ast.keyword(arg="axis", value=ast.Constant(value=int(axis))):
            return [ast.keyword("axis", ast.Constant(1 - axis))]
        case ast.Constant(value=bool(value)):
            return [ast.Constant(not value)]
        case ast.Constant(value=int(value) | float(value)):
            return [ast.Constant(value + 1)]
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
            return [copy.deepcopy(operand)]
        case ast.Name(id=name) if name in NAMES:
            return [ast.Name(NAMES[name], ast.Load())]
        case ast.Attribute(value=value, attr=name) if name in NAMES:
            return [ast.Attribute(copy.deepcopy(value), NAMES[name], ast.Load())]
        case ast.Return(value=ast.AST()):
            return [ast.Return()]
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            return [ast.Pass()]
        case ast.If(test=test) | ast.IfExp(test=test) if isinstance(test, ast.Name | ast.Attribute | ast.Call):
            new = copy.deepcopy(node)
            new.test = ast.UnaryOp(ast.Not(), new.test)
            return [new]
    return [new() for new in SWAPS.get(type(node), ())]


def try_mutant(module: str, tree: ast.Module, cpu_s: float, wall_s: float, is_quiet: bool = True) -> str:
    """Runs a module's tests on a mutant in a child; returns "killed", "survived" or "timed out"."""
    pid = os.fork()
    if not pid:
        code = 3
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu_s), math.ceil(cpu_s) + 5))
            signal.alarm(math.ceil(wall_s))
            if is_quiet:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1), os.dup2(null, 2)
            code = _run_tests(module, tree)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code in (-signal.SIGXCPU, -signal.SIGALRM, -signal.SIGKILL):
        return "timed out"
    return "killed" if code else "survived"


def _run_tests(module: str, tree: ast.Module) -> int:
    name, path = f"resnet_zclass.{module}", ROOT / "resnet_zclass" / f"{module}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    mutant = importlib.util.module_from_spec(spec)
    sys.modules[name] = mutant
    exec(compile(tree, path, "exec"), mutant.__dict__)
    setattr(sys.modules["resnet_zclass"], module, mutant)
    with tempfile.TemporaryDirectory() as folder:
        words = ["-x", "-q", "--tb=no", "-o", "addopts=", "-m", "not slow and not shared", "--doctest-modules"]
        words += ["-p", "no:cacheprovider", "-p", "no:faulthandler", f"--basetemp={folder}/pytest"]
        return int(pytest.main([*words, str(path), str(ROOT / "tests" / f"test_{module}.py")]))


def run_module(module: str, minutes: float) -> tuple[dict, list[str]]:
    """Tries a module's mutants; returns a row of counts and the names of those that survived."""
    for name in MODULES[module]:
        importlib.import_module(name)
    tree = ast.parse((ROOT / "resnet_zclass" / f"{module}.py").read_text())
    start, start_cpu = time.perf_counter(), _children_cpu_s()
    if try_mutant(module, tree, 600, 1200, is_quiet=False) != "survived":
        raise SystemExit(f"The tests of {module} fail without any mutant.")
    wall_s, cpu_s = time.perf_counter() - start, _children_cpu_s() - start_cpu
    known = EQUIVALENT.get(module, {})
    mutants = sorted(list_mutants(tree), key=lambda mutant: mutant[0])
    if gone := set(known) - {name for name, _ in mutants}:
        raise SystemExit("EQUIVALENT lists what is no mutant any more:\n" + "\n".join(sorted(gone)))
    rest = [mutant for mutant in mutants if mutant[0] not in known]
    random.Random(0).shuffle(rest)
    found = {"killed": [], "survived": [], "timed out": []}
    for name, mutant in rest:
        if _children_cpu_s() - start_cpu > 60 * minutes:
            break
        outcome = try_mutant(module, mutant, 3 * cpu_s + 10, 10 * wall_s + 60)
        found[outcome].append(name)
        if outcome != "killed":
            print(f"{outcome}: {module}.{name}", flush=True)
    counts = {outcome: len(names) for outcome, names in found.items()}
    row = {"module": module, "mutants": len(mutants), "equivalent": len(mutants) - len(rest)}
    row |= {"tried": sum(counts.values()), **counts, "CPU s": _children_cpu_s() - start_cpu}
    return row, found["survived"]


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", choices=MODULES, default=list(MODULES))
    parser.add_argument("--minutes", type=float, default=20, help="processor time, all modules together")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take longer to load than most tests to run
    importlib.import_module("resnet_zclass")
    rows, survivors, left = [], {}, 60 * options.minutes
    for i, module in enumerate(options.modules):
        row, survivors[module] = run_module(module, left / 60 / (len(options.modules) - i))
        rows.append(row)
        left -= row["CPU s"]
    report("mutation", rows, survivors=survivors)


if __name__ == "__main__":
    with contextlib.chdir(ROOT):
        main()
