"""The packages that the tokenizers of published models need, beyond those of every install."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def missing_packages(folder: Path) -> Iterator[str]:
    """Yield a sentence for every package that is not installed and without which `folder` cannot be loaded.

    A tokenizer of SentencePiece is converted when it is loaded, unless its folder has it converted. Without
    the packages, transformers takes it for one of another format and asks for a package that does not help.
    """
    models = sorted(folder.glob("*.model"))
    if not models or (folder / "tokenizer.json").exists():
        return
    for name in ("sentencepiece", "protobuf"):
        if not _installed(name):
            yield f"{models[0]} needs the package {name}, which is not installed; run: pip install {name}"


def _installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False
