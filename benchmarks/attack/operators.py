"""Break a comparison, a condition or a result in `store/` and `engine/`, and run the tests of the module.

    python benchmarks/attack operators [FOLDER] [--tries N]

Of all such mutants N are drawn at random, always the same. A mutant that survives is either equal to the
original, such as a bound that no test can reach, or a gap in the tests.
"""

import ast
import copy
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mutants import LIBRARIES, PROJECT, copied_source, import_libraries, run_tests
from tries import Try

TRIES = 40
SECONDS = 400.0
"""For the tests of a mutant; one that makes them wait for longer is seen."""
PACKAGES = ("store", "engine")
SLOW = {"test_ray_executor.py": ("engine/ray_executor.py", "engine/ray_launch.py", "engine/shard_host.py")}
"""Tests that take minutes, and the only modules that they are run for."""
SWAPS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


@dataclass(frozen=True)
class Mutant:
    """A module with one expression replaced."""

    file: str
    line: int
    old: str
    new: str
    source: str

    @property
    def name(self) -> str:
        """The place and the change, for messages."""
        return f"{self.file}:{self.line}: {self.old} → {self.new}"


def attack(folder: Path, tries: int = TRIES) -> Iterator[Try]:
    """Yield a try for every mutant: it is killed if tests fail, and a problem if they pass."""
    import_libraries(LIBRARIES)
    log = folder / "operators.log"
    with tempfile.TemporaryDirectory() as temporary, copied_source(Path(temporary)) as package:
        found = [
            mutant
            for name in PACKAGES
            for path in sorted((package / name).glob("*.py"))
            for mutant in mutants(path.relative_to(package).as_posix(), path.read_text(encoding="utf-8"))
        ]
        for mutant in random.Random(0).sample(found, min(tries, len(found))):
            place = package / mutant.file
            original = place.read_text(encoding="utf-8")
            place.write_text(mutant.source, encoding="utf-8")
            try:
                code = run_tests(tests_of(mutant.file), package, log, seconds=SECONDS)
            finally:
                place.write_text(original, encoding="utf-8")
            yield Try(mutant.file.partition("/")[0], mutant.name, "" if code else "survived", "killed")


def tests_of(file: str) -> list[str]:
    """Return the tests to run for a module: its own first, then the others of its package."""
    folder = PROJECT / "tests" / Path(file).parent
    tests = sorted(path for path in folder.glob("test_*.py") if file in SLOW.get(path.name, (file,)))
    own = f"test_{Path(file).name}"
    return [str(path.relative_to(PROJECT)) for path in sorted(tests, key=lambda path: path.name != own)]


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """Yield a mutant for every comparison, `and`, `or`, `not` and returned value of a module."""
    for node in ast.walk(ast.parse(source)):
        for new in _changed(node):
            old = ast.get_source_segment(source, node) or ""
            text = ast.unparse(new) if isinstance(new, ast.stmt) else f"({ast.unparse(new)})"
            if source.count(old) == 1:
                short = " ".join(old.split())[:70], " ".join(text.split())[:70]
                yield Mutant(file, node.lineno, *short, source.replace(old, text))  # type: ignore[attr-defined]


def _changed(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    if isinstance(node, ast.Compare):
        other = copy.deepcopy(node)
        other.ops[0] = SWAPS[type(node.ops[0])]()
        yield other
    elif isinstance(node, ast.BoolOp):
        other_bool = copy.deepcopy(node)
        other_bool.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield other_bool
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield ast.Return(ast.Constant(None))
