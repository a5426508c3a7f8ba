"""The arrows between the parts of the package, and what may be imported when."""

import ast
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import capo
import fake_stages

SOURCE = Path(capo.__file__).parent

LAYERS = [
    {"cli", "__main__"},
    {"compare"},
    {"terminal"},
    {"pipeline", "steps", "plan", "bench", "calibration"},
    {"stages"},
    {"training", "reporting", "merging"},
    {"diffusion", "rewards", "prompts", "shapes", "exchange"},
    {"workspace", "sharing", "runtime", "weights", "processes"},
    {"artifact"},
    {"manifest", "durable", "recipe", "progress", "seeds", "method", "processes", "hub"},
    {"hints"},
]
"""Parts may import parts of their own row and of those below."""

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
    """Modules of the package that a module imports: at its top, or in its functions too when `whole`.

    Imports for type checkers alone do not count.
    """
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
    """The nodes that run, all of them or only those that do when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if not typing_only and (whole or not inside):
            yield node
            yield from _running(node, whole)


def part(name):
    return name.split(".")[1] if "." in name else "capo"


def test_every_part_has_its_layer():
    known = set().union(*LAYERS)
    assert {part(name) for name in MODULES} - {"capo"} == known & {part(n) for n in MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_inwards(name):
    if part(name) == "capo":
        return
    layer = {each: row for row, parts in enumerate(LAYERS) for each in parts}
    for other in imported(name, whole=True) - {"capo"}:
        assert layer[part(other)] >= layer[part(name)], f"{name} imports {other}"


def test_the_mathematics_knows_nothing_else_of_the_package():
    for name in MODULES:
        if part(name) == "method":
            assert all(part(other) == "method" for other in imported(name, whole=True))


def test_there_are_no_import_cycles():
    # A package's own __init__ may import its modules, and they each other through it never.
    graph = {name: imported(name, whole=False) for name in MODULES}
    list(TopologicalSorter(graph).static_order())


def test_no_part_is_a_drawer_for_odds_and_ends():
    assert not {n.rpartition(".")[2] for n in MODULES} & {"utils", "common", "helpers", "misc"}


def test_no_module_is_long():
    lengths = {n: len(p.read_text(encoding="utf-8").splitlines()) for n, p in MODULES.items()}
    assert {n: length for n, length in lengths.items() if length > 400} == {}


def test_only_the_workspace_writes_into_runs():
    """Stages and what they use open no file for writing: everything goes through artifacts."""
    for name, path in MODULES.items():
        if part(name) in ("stages", "training", "reporting", "pipeline", "cli", "terminal"):
            opened = re.findall(r"\bopen\([^)]*[\"'][wax]b?[\"']", path.read_text(encoding="utf-8"))
            assert opened == [], name


def heavy_after(*arguments):
    """Which heavy libraries a `capo` command has imported when it ends."""
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
        "from capo.cli.tables import print_result\n"
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


def test_every_public_name_is_there():
    assert set(capo.__all__) <= set(dir(capo))
    for name in capo.__all__:
        assert getattr(capo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'calibrat'"):
        _ = capo.calibrat


def test_public_names_are_the_same_for_type_checkers():
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        (node.module.removeprefix("capo."), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("capo.")
        for alias in node.names
    }
    assert typed == {(home, name) for name, home in capo._HOME.items()}
