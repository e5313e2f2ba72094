"""Mutation testing: how many small faults put into a module do its own tests find?

    python -m benchmarks.mutation [metrics splits save_non_multi_gpu_model] [--minutes 20] [--again]

Every mutant is the module with one operator, constant, name or statement changed. A process that has the heavy
packages loaded forks a child for each, which puts the mutant in the module's place and runs the module's tests and
doctests until one fails. Mutants are tried in an order drawn with a fixed seed until the processor time is used up,
shared evenly by the modules. `EQUIVALENT` lists those that no test can tell from the module; they are not tried.
With `--again` only those are tried that `benchmarks/mutation.json` says survived.
"""

import argparse
import ast
import contextlib
import copy
import gc
import importlib
import importlib.util
import itertools
import json
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
from types import CodeType

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


def list_mutants(tree: ast.Module, path: str | Path = "module") -> Iterator[tuple[str, CodeType]]:
    r"""All mutants of a module, each with its name: the function, and the lines without and with the change.

    >>> [name for name, _ in list_mutants(ast.parse("def f(a):\n    return a < 1"))]  # doctest: +NORMALIZE_WHITESPACE
    ['f: return a < 1 -> return', 'f: return a < 1 -> return a <= 1', 'f: return a < 1 -> return a >= 1',
     'f: return a < 1 -> return a < 2']
    """
    lines = ast.unparse(tree).splitlines()
    for where, parent, field, i, new in list(_list_changes(tree, "")):
        owner, key = (vars(parent), field) if i is None else (getattr(parent, field), i)
        old, owner[key] = owner[key], ast.copy_location(new, owner[key])
        ast.fix_missing_locations(tree)
        changed, code = ast.unparse(tree).splitlines(), compile(tree, path, "exec")
        owner[key] = old
        first = _n_alike(lines, changed)
        last = _n_alike(lines[first:][::-1], changed[first:][::-1])
        words = [" ".join(map(str.strip, text[first : len(text) - last])) for text in (lines, changed)]
        yield f"{where}: {' -> '.join(words)}", code


def _n_alike(a: list, b: list) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _list_changes(node: ast.AST, where: str) -> Iterator[tuple[str, ast.AST, str, int | None, ast.AST]]:
    """Function, parent, field, index in the field (None: it is no list) and new child of every change below a node."""
    if isinstance(node, ast.Raise):
        return  # words of errors
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        where = f"{where}.{node.name}".lstrip(".")
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for i, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            is_idle = isinstance(child, ast.If) and ast.unparse(child.test).startswith(("TYPE_CHECKING", "__name__"))
            if isinstance(child, ast.AST) and not is_idle:
                yield from ((where, node, field, i, new) for new in _alternatives(child))
                if not (isinstance(child, ast.keyword) and child.arg == "axis"):
                    yield from _list_changes(child, where)


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
        case ast.Return(value=ast.AST() as value) if ast.unparse(value) != "None":
            return [ast.Return()]
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            return [ast.Pass()]
        case ast.If(test=test) | ast.IfExp(test=test) if isinstance(test, ast.Name | ast.Attribute | ast.Call):
            new = copy.deepcopy(node)
            new.test = ast.UnaryOp(ast.Not(), new.test)
            return [new]
    return [new() for new in SWAPS.get(type(node), ())]


def try_mutant(module: str, code: CodeType, cpu_s: float, wall_s: float, is_quiet: bool = True) -> str:
    """Runs a module's tests on a mutant in a child; returns "killed", "survived" or "timed out"."""
    with tempfile.TemporaryDirectory() as folder:
        pid = os.fork()
        if not pid:
            status = 3
            try:
                resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu_s), math.ceil(cpu_s) + 5))
                signal.alarm(math.ceil(wall_s))
                if is_quiet:
                    null = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(null, 1), os.dup2(null, 2)
                status = _run_tests(module, code, folder)
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status in (-signal.SIGXCPU, -signal.SIGALRM, -signal.SIGKILL):
        return "timed out"
    return "killed" if status else "survived"


def _run_tests(module: str, code: CodeType, folder: str) -> int:
    name, path = f"resnet_zclass.{module}", ROOT / "resnet_zclass" / f"{module}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    mutant = importlib.util.module_from_spec(spec)
    sys.modules[name] = mutant
    exec(code, mutant.__dict__)
    setattr(sys.modules["resnet_zclass"], module, mutant)
    words = ["-x", "-q", "--tb=no", "-o", "addopts=", "-m", "not slow and not long and not shared", "--doctest-modules"]
    words += ["-p", "no:cacheprovider", "-p", "no:faulthandler", f"--basetemp={folder}/pytest"]
    return int(pytest.main([*words, str(path), str(ROOT / "tests" / f"test_{module}.py")]))


def run_module(module: str, minutes: float, only: list[str] | None = None) -> tuple[dict, list[str]]:
    """Tries a module's mutants; returns a row of counts and the names of those that survived."""
    for name in MODULES[module]:
        importlib.import_module(name)
    path = ROOT / "resnet_zclass" / f"{module}.py"
    mutants = sorted(list_mutants(ast.parse(path.read_text()), path), key=lambda mutant: mutant[0])
    original = compile(path.read_text(), path, "exec")
    gc.freeze()  # children need not look through what is loaded
    start, start_cpu = time.perf_counter(), _children_cpu_s()
    if try_mutant(module, original, 600, 1200, is_quiet=False) != "survived":
        raise SystemExit(f"The tests of {module} fail without any mutant.")
    wall_s, cpu_s = time.perf_counter() - start, _children_cpu_s() - start_cpu
    known = EQUIVALENT.get(module, {})
    if gone := set(known) - {name for name, _ in mutants}:
        raise SystemExit("EQUIVALENT lists what is no mutant any more:\n" + "\n".join(sorted(gone)))
    rest = [mutant for mutant in mutants if mutant[0] not in known]
    tried = rest if only is None else [mutant for mutant in rest if mutant[0] in only]
    random.Random(0).shuffle(tried)
    found = {"killed": [], "survived": [], "timed out": []}
    for name, mutant in tried:
        if _children_cpu_s() - start_cpu > 60 * minutes:
            break
        outcome = try_mutant(module, mutant, 3 * cpu_s + 4, 10 * wall_s + 60)
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
    parser.add_argument("--again", action="store_true", help="try those alone that survived the last time")
    options = parser.parse_args()
    last = json.loads(Path(__file__).with_name("mutation.json").read_text())["survivors"] if options.again else {}
    sys.path.insert(0, str(ROOT / "tests"))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take longer to load than most tests to run
    importlib.import_module("resnet_zclass")
    rows, survivors, left = [], {}, 60 * options.minutes
    for i, module in enumerate(options.modules):
        row, survivors[module] = run_module(module, left / 60 / (len(options.modules) - i), last.get(module))
        rows.append(row)
        left -= row["CPU s"]
    report("mutation", rows, survivors=survivors)


if __name__ == "__main__":
    with contextlib.chdir(ROOT):
        main()
