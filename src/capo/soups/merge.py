"""Soups: several policies of one base merged into one policy or into a front of policies (Eq. 29).

TO/                 a policy folder that plain diffusers and `capo evaluate --policy` read
TO/0.25-0.75/ …     with a sweep: one folder per weighting, and sweep.json, which lists them
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from capo.diffusion.saved import LORA, PEFT_CONFIG, RECORD, SavedPolicy, find_policy, is_policy
from capo.engine.progress import say
from capo.recipe import ModelSection
from capo.soups.soup_card import soup_card
from capo.store import atomic
from capo.store.manifest import pretty

if TYPE_CHECKING:
    from capo.diffusion.family import Family
    from capo.method.low_rank import LowRank

KEPT = ("base", "model", "adaptation")
"""Fields that a soup's record copies from its policies."""


@dataclass(frozen=True)
class SoupSettings:
    """How policies are merged; see `capo.method.soup.soup`."""

    interpolation: Literal["slerp", "linear"] = "slerp"
    angle: Literal["tensor", "global"] = "tensor"
    rank: int | None = None
    """The rank of a LoRA soup; None for the sum of the policies' ranks, which is exact."""
    base: str | None = None
    """The current location of the checkpoint that the policies were tuned from, if it has moved."""


def soup(
    policies: Sequence[Path], to: Path, settings: SoupSettings, weights: Sequence[float] | None = None
) -> dict[str, Any]:
    """Write the soup of `policies` (policy folders or run directories) to the new folder `to`.

    Returns the description of the soup in its `capo.json`. Raises `ValueError` for policies that cannot be
    merged, or if `to` exists.
    """
    merge = _Merge(policies, settings)
    with atomic.create_folder(to) as folder:
        return merge.write(folder, weights or [1.0] * len(policies))


def soup_front(
    policies: Sequence[Path], to: Path, settings: SoupSettings, points: int
) -> list[dict[str, Any]]:
    """Write soups of all weightings, with `points` between any two policies, ends included.

    k policies give C(points + k - 2, k - 1) soups. Returns the contents of `sweep.json`.
    """
    merge = _Merge(policies, settings)
    listed = []
    with atomic.create_folder(to) as folder:
        for weights in weightings(len(policies), points):
            name = "-".join(f"{weight:.3g}" for weight in weights)
            (folder / name).mkdir()
            listed.append({"folder": name, **merge.write(folder / name, weights)})
        (folder / "sweep.json").write_text(pretty(listed), encoding="utf-8")
    return listed


def weightings(policies: int, points: int) -> Iterator[list[float]]:
    """Yield all weights that are multiples of 1 / (points - 1) and add up to 1, in falling order."""
    if points < 2:
        raise ValueError(f"a sweep needs at least 2 points, got {points}")
    steps = points - 1
    # Stars and bars: the gaps between the bars are the policies' shares of the steps.
    for bars in itertools.combinations(range(steps + policies - 1), policies - 1):
        edges = (-1, *bars, steps + policies - 1)
        counts = [after - before - 1 for before, after in itertools.pairwise(edges)]
        yield [count / steps for count in reversed(counts)]


class _Merge:
    """Compatible policies, ready to be merged with any weights."""

    def __init__(self, policies: Sequence[Path], settings: SoupSettings) -> None:
        # Adapters from elsewhere say nothing of their base; they count as those of the first policy's.
        own = find_policy(next(filter(is_policy, policies), policies[0]))
        self._policies = [_adapter_of(own, settings, path) or find_policy(path) for path in policies]
        self._settings, self._own = settings, own
        _check(self._policies, settings)
        self._first = own.record

    def write(self, folder: Path, weights: Sequence[float]) -> dict[str, Any]:
        """Write the soup with these weights to `folder`; return its description."""
        chosen = self._settings
        method = {"interpolation": chosen.interpolation, "angle": chosen.angle, "weights": weights}
        if self._first["adaptation"] == "lora":
            outcome = self._write_adapter(folder, method)
        else:
            outcome = self._write_pipeline(folder, method)
        if chosen.interpolation == "linear":
            del method["angle"]
        description = {**method, **outcome}
        self._write_record(folder, description)
        return description

    def _write_adapter(self, folder: Path, method: dict[str, Any]) -> dict[str, Any]:
        from capo.method.low_rank import low_rank_soup, refactored
        from capo.soups.adapters import aligned, convert_adapter, read_adapter, write_adapter

        own = read_adapter(self._own.folder)
        adapters = [
            read_adapter(policy.folder)
            if is_policy(policy.folder)
            else convert_adapter(policy.folder, self._weightless, own)
            for policy in self._policies
        ]
        updates = low_rank_soup(aligned(adapters), **method)
        exact, rank = sum(adapter.rank for adapter in adapters), self._settings.rank
        error = 0.0
        if rank is not None and rank != exact:
            if rank > exact:
                raise ValueError(f"--rank: {rank} is more than {exact}, the sum of the policies' ranks")
            smaller, lost, total = zip(
                *(refactored(update, rank) for update in updates.values()), strict=True
            )
            updates = dict(zip(updates, smaller, strict=True))
            error = math.sqrt(math.fsum(lost) / math.fsum(total)) if math.fsum(total) > 0 else 0.0
        write_adapter(folder, updates, adapters)
        self._write_kohya(folder, updates, f"{adapters[0].network}.")
        return {"rank": rank or exact, "relative_error": error}

    def _write_kohya(self, folder: Path, updates: "Mapping[str, LowRank]", prefix: str) -> None:
        """Write the LoRA for ComfyUI and kohya's scripts too, if the base's configuration is here."""
        from capo.diffusion.kohya import KOHYA, Update, write_updates

        try:
            denoiser = self._weightless.denoiser
        except (OSError, ValueError) as error:
            say(f"{folder.name}: no {KOHYA}, whose names follow from the base's configuration: {error}")
            return
        named = {
            name.removeprefix(prefix): Update(u.down.float(), u.up.float()) for name, u in updates.items()
        }
        write_updates(denoiser, named, folder / KOHYA)

    @cached_property
    def _weightless(self) -> "Family":
        """The base of LoRA policies, without its weights."""
        from capo.diffusion import load_weightless

        return load_weightless(_base_of(self._own, self._settings))

    def _write_pipeline(self, folder: Path, method: dict[str, Any]) -> dict[str, Any]:
        from capo.soups.full_models import merge_pipelines

        merge_pipelines([p.folder for p in self._policies], self._base(), folder, method)
        return {}

    def _base(self) -> ModelSection:
        """The model that full policies were tuned from, at its current location."""
        base = _base_of(self._own, self._settings)
        self._policies[0].check_base(base)
        return base

    def _write_record(self, folder: Path, description: dict[str, Any]) -> None:
        sources = [{"folder": str(p.folder), "identity": p.identity} for p in self._policies]
        kept = {name: self._first[name] for name in (*KEPT, "left_out", "pipeline") if name in self._first}
        record = {**kept, "soup": {**description, "policies": sources}}
        (folder / RECORD).write_text(pretty(record), encoding="utf-8")
        (folder / "README.md").write_text(soup_card(record), encoding="utf-8")


def _base_of(policy: SavedPolicy, settings: SoupSettings) -> ModelSection:
    """Return the model that a policy was tuned from, at its current location."""
    moved = {} if settings.base is None else {"checkpoint": settings.base}
    return ModelSection(**(policy.record["model"] | moved))


def _adapter_of(own: SavedPolicy, settings: SoupSettings, path: Path) -> SavedPolicy | None:
    """Return a LoRA file, or a folder of peft or diffusers with one, as a policy of the base of `own`.

    None for anything else. Raises `ValueError` unless the LoRA fits that base.
    """
    from capo.diffusion import check_lora

    foreign = (path / PEFT_CONFIG).is_file() or (path / LORA).is_file() or path.is_file()
    if is_policy(path) or not foreign or own.record["adaptation"] != "lora":
        return None
    check_lora(_base_of(own, settings), path)
    return SavedPolicy(path, own.record)


def _check(policies: Sequence[SavedPolicy], settings: SoupSettings) -> None:
    if len(policies) < 2:
        raise ValueError(f"a soup needs at least two policies, got {len(policies)}")
    for policy in policies:
        if lacking := [name for name in KEPT if name not in policy.record]:
            raise ValueError(f"{policy.folder / RECORD} has no field {lacking[0]}; train that policy again")
    _check_equal(policies, "tuned from different models", lambda record: record["base"])
    _check_equal(policies, "tuned in different precisions", lambda record: record["model"]["dtype"])
    _check_equal(policies, "adapted differently", lambda record: record["adaptation"])
    if settings.rank is not None and policies[0].record["adaptation"] != "lora":
        raise ValueError("--rank: only LoRA policies have a rank; these are full models")
    if settings.interpolation == "linear" and settings.angle == "global":
        raise ValueError("--angle: linear interpolation uses no angles; remove this option")


def _check_equal(policies: Sequence[SavedPolicy], what: str, value: Callable[[dict[str, Any]], str]) -> None:
    values = {value(policy.record): policy.folder for policy in policies}
    if len(values) > 1:
        differ = "; ".join(f"{folder}: {value}" for value, folder in values.items())
        raise ValueError(f"the policies were {what} ({differ})")
