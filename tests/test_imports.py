"""The layers of the package, and which libraries commands import."""

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import capo
import fake_stages

SOURCE = Path(capo.__file__).parent

LAYERS = (
    {"__main__"},
    {"cli"},
    {"shapes"},
    {"studies", "tuning"},
    {"cost"},
    {"pipeline"},
    {"training", "soups"},
    {"benchmarks", "people"},
    {"evaluation"},
    {"sampling"},
    {"reporting"},
    {"pairing"},
    {"scoring"},
    {"images"},
    {"rewards"},
    {"diffusion", "prompts"},
    {"store"},
    {"engine", "pretrained"},
    {"recipe"},
    {"method"},
)
"""Every part of the package once. A part imports only itself and parts of the rows below its own."""

HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "pyarrow",
    "jinja2",
    "numpy",
)


def module_name(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(("capo", *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imported(name, whole):
    """Modules of the package that a module imports: at its top, or anywhere when `whole`."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in _running(ast.parse(MODULES[name].read_text(encoding="utf-8")), whole):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                found.add(submodule if submodule in MODULES else base)
    return {each for each in found if each in MODULES and each != name}


def _running(tree, whole):
    """Yield all nodes, or only those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if whole or not (typing_only or inside):
            yield node
            yield from _running(node, whole)


def part(name):
    return name.split(".")[1] if "." in name else "capo"


def test_every_part_is_in_the_table_once():
    listed = [part for row in LAYERS for part in row]
    assert sorted(listed) == sorted({part(name) for name in MODULES} - {"capo"})


@pytest.mark.parametrize("row", range(len(LAYERS)), ids=lambda row: " ".join(sorted(LAYERS[row])))
def test_imports_point_down(row):
    """Imports inside functions and for type checkers count too."""
    below = {"capo"}.union(*LAYERS[row + 1 :])
    for name in MODULES:
        if part(name) in LAYERS[row]:
            upward = {o for o in imported(name, whole=True) if part(o) not in below | {part(name)}}
            assert not upward, name


def test_method_imports_nothing_else_of_the_package():
    for name in MODULES:
        if part(name) == "method":
            assert all(part(other) == "method" for other in imported(name, whole=True))


def test_module_names_are_unique():
    names = Counter(n.rpartition(".")[2] for n in MODULES if not n.startswith("capo.cli"))
    assert {n for n, count in names.items() if count > 1} == set()


def test_there_are_no_import_cycles():
    # A package's __init__ may import its modules; they never import one another through it.
    graph = {name: imported(name, whole=False) for name in MODULES}
    list(TopologicalSorter(graph).static_order())


def test_no_part_is_named_utils_or_helpers():
    assert not {n.rpartition(".")[2] for n in MODULES} & {"utils", "common", "helpers", "misc"}


def test_no_module_is_long():
    lengths = {n: len(p.read_text(encoding="utf-8").splitlines()) for n, p in MODULES.items()}
    assert {n: length for n, length in lengths.items() if length > 400} == {}


def test_only_the_store_writes_to_run_directories():
    """Stages and what they use open no file for writing: everything goes through artifacts."""
    for name, path in MODULES.items():
        if part(name) in (
            "sampling",
            "scoring",
            "pairing",
            "training",
            "evaluation",
            "reporting",
            "pipeline",
            "cli",
        ):
            opened = re.findall(r"\bopen\([^)]*[\"'][wax]b?[\"']", path.read_text(encoding="utf-8"))
            assert opened == [], name


def heavy_after(*arguments):
    """Return the heavy libraries that a `capo` command has imported when it ends."""
    code = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\n"
        "from capo.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    modules = json.loads(done.stderr.splitlines()[-1])
    return {m for m in modules if m in HEAVY}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["run", "--help"], ["recipes"]], ids=" ".join
)
def test_help_imports_nothing_heavy(arguments):
    assert heavy_after(*arguments) == set()


def test_a_completed_run_imports_no_model_library(tmp_path):
    fake = [sys.executable, fake_stages.__file__]
    recipe = fake_stages.write_recipe(tmp_path / "tiny.yaml")
    subprocess.run([*fake, "run", recipe, "--run", tmp_path / "run"], check=True, capture_output=True)
    code = (
        "import fake_stages, sys\nfake_stages.install()\nfrom capo import load_recipe, run\n"
        "from capo.cli.run_tables import print_result\n"
        "print_result(run(load_recipe(sys.argv[1]), sys.argv[2]), whole=True)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules and m != 'numpy'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, recipe, tmp_path / "run"],
        cwd=Path(fake_stages.__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "nothing to do" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_public_name_exists():
    assert set(capo.__all__) <= set(dir(capo))
    for name in capo.__all__:
        assert getattr(capo, name) is not None
    with pytest.raises(AttributeError, match="calibrat"):
        _ = capo.calibrat
