"""The packages that the tokenizers and processors of published models need, beyond those of every install."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def missing_packages(folder: Path) -> Iterator[str]:
    """Yield a sentence for every package that is not installed and without which `folder` cannot be loaded.

    A tokenizer of SentencePiece is converted when it is loaded, unless its folder has it converted. Without
    the packages, transformers takes it for one of another format and asks for a package that does not help.
    """
    models = sorted(folder.glob("*.model"))
    if models and not (folder / "tokenizer.json").exists():
        yield from _sentences(("sentencepiece", "protobuf"), models[0])


def missing_processor_packages(folder: Path) -> Iterator[str]:
    """Yield the same for the processor of a model that reads images too."""
    if (settings := folder / "preprocessor_config.json").exists():
        yield from _sentences(("torchvision",), settings)


def _sentences(packages: tuple[str, ...], file: Path) -> Iterator[str]:
    for name in packages:
        if not _installed(name):
            yield f"{file} needs the package {name}, which is not installed; run: pip install {name}"


def _installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False
