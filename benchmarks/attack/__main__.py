"""Attack the finished system from outside, with commands and files alone.

    python benchmarks/attack THEME [FOLDER] [OPTIONS]

THEME is a file of this folder, such as `flips`. Every theme prints what it tried, what held and what failed,
and writes the same as THEME.json into FOLDER, which also keeps the run that it attacks. The exit code is 1 if
anything failed.
"""

import argparse
import importlib
import re
import sys
from pathlib import Path

from tries import show

SCRIPTS = Path(__file__).parent.glob("*.py")
THEMES = sorted(p.stem for p in SCRIPTS if re.search(r"^def attack\(", p.read_text(), re.MULTILINE))


def main() -> int:
    """Run the theme that the command line names."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("theme", choices=THEMES)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("attacked"))
    parser.add_argument("--tries", type=int, help="how many, where the theme draws them at random")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    counted = () if options.tries is None else (options.tries,)
    return show(options.theme, importlib.import_module(options.theme).attack(folder, *counted), folder)


if __name__ == "__main__":
    sys.exit(main())
