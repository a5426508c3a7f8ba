"""The weight files of a checkpoint's parts: which variants there are, and which one is loaded."""

import re
from functools import cache
from pathlib import Path

from capo.diffusion.components import Source

_WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|model)"
    r"(\.safetensors\.index(\.(?P<indexed>[\w-]+))?\.json|(\.(?P<variant>[\w-]+))?\.safetensors)"
)
"""A whole weight file or the index of a sharded one, as diffusers and transformers name them."""
_SHARD = re.compile(r".+-\d{5}-of-\d{5}")


def chosen_variant(source: Source, folder: str) -> str | None:
    """Return the variant of a part to load: the source's, or the default one if the part has only that.

    Raises `ValueError` with what to do if the part has neither.
    """
    names = _names(source, folder)
    have = {(m["indexed"] or m["variant"]) for n in names if (m := _WEIGHTS.fullmatch(n)) and not _shard(m)}
    if source.variant in have:
        return source.variant
    if None in have or not names:  # without names, loading says what is wrong
        return None
    raise ValueError(f"model.checkpoint: {source.name}, {folder} {_problem(source, names, have)}")


def check_variant(source: Source) -> None:
    """Raise `ValueError` if no part at all has the variant, as with a misspelled one."""
    wanted = source.variant
    names = [path.name for path in Path(source.path).glob("*/*")]
    names += _hub_files(source.hub, source.revision) if source.hub else ()
    found = any(f".{wanted}." in name or f".{wanted}-" in name for name in names)
    if not found and any(name.endswith(".safetensors") for name in names):
        raise ValueError(f"model.variant: no part of {source.name} has weights of variant {wanted!r}")


def _shard(match: re.Match[str]) -> bool:
    return bool(_SHARD.fullmatch(match["variant"] or ""))


def _problem(source: Source, names: list[str], have: set[str | None]) -> str:
    variants = sorted(name for name in have if name)
    if variants:
        given = (
            "no default weights" if source.variant is None else f"no weights of variant {source.variant!r}"
        )
        return f"has {given}, only of variant {', '.join(variants)}; set model.variant: {variants[0]}"
    if pickled := [name for name in names if name.endswith((".bin", ".ckpt", ".pt", ".pth"))]:
        return (
            f"has only pickled weights ({pickled[0]}), which can run code when they are loaded. If you trust "
            "them, convert them once with diffusers: "
            "DiffusionPipeline.from_pretrained(..., use_safetensors=False).save_pretrained(FOLDER), and set "
            "model.checkpoint to FOLDER"
        )
    return "has no safetensors weights"


def _names(source: Source, folder: str) -> list[str]:
    """The names of the files of a part."""
    local = Path(source.path) / folder
    names = [path.name for path in local.iterdir()] if local.is_dir() else []
    if source.hub is not None:
        prefix = f"{folder}/"
        files = _hub_files(source.hub, source.revision)
        names += [f.removeprefix(prefix) for f in files if f.startswith(prefix)]
    return names


@cache
def _hub_files(name: str, revision: str | None) -> tuple[str, ...]:
    """The files of a repository; none if the Hub cannot be reached, as with a model that was downloaded."""
    from huggingface_hub import HfApi

    try:
        return tuple(HfApi().list_repo_files(name, revision=revision))
    except Exception:  # the library, its HTTP client and the network each have error types of their own
        return ()
