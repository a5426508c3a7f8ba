"""Which rewards there are, and what a recipe's reward section stands for.

Imports no torch: `reward_identity` is what the pipeline asks to know whether scores are stale.
"""

import difflib
import hashlib
import inspect
import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.diffusion import checkpoint_identity
from capo.recipe import RewardSection
from capo.rewards import function
from capo.rewards.catalogue import EMBEDDED, SHIPPED, Shipped
from capo.rewards.comparison import named_comparison
from capo.rewards.protocol import Reward, RewardError

if TYPE_CHECKING:
    from capo.method.calibration import Comparison


def load_reward(section: RewardSection, device: Any) -> Reward:
    """Load what `section` names onto `device`; raises `RewardError` with the reason and the fix."""
    if function.is_path(source := _source(section)):
        return function.FunctionReward(section.name, source)
    shipped = _shipped(section)
    _check_place(section, shipped.checkpoint)
    build = _architecture(shipped)
    return build(section.name, shipped.checkpoint, device, shipped.processor, **_options(section, shipped))


def reward_identity(section: RewardSection) -> str:
    """What its scores depend on besides the samples: a change of it makes them stale.

    The architecture with a digest of a local checkpoint's files or the Hub id and revision, and its
    options; for a function its import path with a digest of the module's file. Reads files, loads
    no weights.
    """
    if function.is_path(source := _source(section)):
        code = function.source_file(source).read_bytes()
        return f"{source} blake2b:{hashlib.blake2b(code, digest_size=16).hexdigest()}"
    shipped = _shipped(section)
    architecture = shipped.architecture.partition(":")[2]
    places = [shipped.checkpoint, *([shipped.processor] if shipped.processor else [])]
    options = _options(section, shipped)
    told = [json.dumps(options, sort_keys=True)] if options else []
    return " ".join([architecture, *(_checkpoint_identity(section, place) for place in places), *told])


def declared_comparison(section: RewardSection) -> "Comparison | None":
    """The comparison that the reward itself declares; None when a function declares none.

    Loads no weights.
    """
    if function.is_path(source := _source(section)):
        return function.declared_comparison(source)
    return _architecture(_shipped(section)).comparison


def build_comparison(section: RewardSection) -> "Comparison":
    """The comparison `section` asks for, else the one its reward declares; loads no weights.

    Raises `RewardError` when there is none, or a parameter that the comparison does not have.
    """
    from capo.method.calibration import BradleyTerry, PowerRatio

    comparison = named_comparison(section.comparison) if section.comparison else declared_comparison(section)
    if comparison is None:
        raise RewardError(
            f"reward {section.name!r} does not say how its scores compare: give it "
            "`comparison: bradley-terry` (or power-ratio, threshold) in the recipe, or set the "
            "function's attribute, as score.comparison = capo.BradleyTerry(temperature=1.0)"
        )
    for parameter, kind in (("temperature", BradleyTerry), ("exponent", PowerRatio)):
        value = getattr(section, parameter)
        if value is None:
            continue
        if not isinstance(comparison, kind):
            raise RewardError(
                f"reward {section.name!r}: {parameter} does not apply to its comparison {comparison}"
            )
        comparison = kind(value)
    return comparison


def split_revision(checkpoint: str) -> tuple[str, str | None]:
    """Directory or Hub id, and the revision after `@` (None for a directory or when not given)."""
    if Path(checkpoint).is_dir():
        return checkpoint, None
    name, _, revision = checkpoint.partition("@")
    return name, revision or None


def _source(section: RewardSection) -> str:
    source = section.source or section.name
    if function.is_path(source):
        for field in ("checkpoint", "options"):
            if getattr(section, field):
                raise RewardError(
                    f"reward {section.name!r}: {field} does not apply to the function {source}; remove it"
                )
    return source


def _shipped(section: RewardSection) -> Shipped:
    """The shipped entry it names, with the section's own weights in place if it gives some."""
    source = _source(section)
    if source not in SHIPPED:
        near = difflib.get_close_matches(source, SHIPPED, n=1)
        raise RewardError(
            f"reward {section.name!r}: no shipped reward {source!r} ({', '.join(SHIPPED)})"
            + (f"; did you mean {near[0]!r}?" if near else "")
            + "; your own goes under source as package.module:function"
        )
    shipped = SHIPPED[source]
    # Other weights come with their own tokenizer and image processor.
    return replace(shipped, checkpoint=section.checkpoint, processor=None) if section.checkpoint else shipped


def _architecture(shipped: Shipped) -> Any:
    module, _, name = shipped.architecture.partition(":")
    return getattr(import_module(f"capo.rewards.{module}"), name)


def architecture_options(shipped: Shipped) -> dict[str, Any]:
    """The options of an architecture with their defaults: its keyword-only parameters."""
    parameters = inspect.signature(_architecture(shipped)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def _options(section: RewardSection, shipped: Shipped) -> dict[str, Any]:
    """The options given, by the catalogue and by the section, which goes first."""
    if section.options:
        known = architecture_options(shipped)
        for name in section.options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise RewardError(
                    f"reward {section.name!r}: no option {name!r} ({', '.join(known) or 'it has none'})"
                    + (f"; did you mean {near[0]!r}?" if near else "")
                )
    return {**shipped.options, **section.options}


def _check_place(section: RewardSection, checkpoint: str) -> None:
    if Path(checkpoint).is_dir() or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?", checkpoint):
        return
    if Path(checkpoint).parent == EMBEDDED:
        raise RewardError(f"reward {section.name!r}: {checkpoint} is not there; `capo shapes build` makes it")
    raise RewardError(
        f"reward {section.name!r}: checkpoint {checkpoint!r} is neither a directory nor a Hub id "
        "as owner/name or owner/name@revision"
    )


def _checkpoint_identity(section: RewardSection, checkpoint: str) -> str:
    _check_place(section, checkpoint)
    return checkpoint_identity(*split_revision(checkpoint))
