"""Rewards as judges: the score of every image for its prompt."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from capo.benchmarks.definition import JudgeImages, Judgment, failed
from capo.prompts import Prompt
from capo.recipe import RewardSection
from capo.recipe.hub_id import split_revision
from capo.rewards import check_reward_source, find_entry, load_reward, reward_identity, score_images

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from capo.rewards import Reward, Scored

BATCH_SIZE = 16
"""Images that a reward scores at once, if the options do not say otherwise."""


@dataclass
class RewardScores:
    """Judges by rewards. A judgment has `score`, that of the first reward, and `scores` by reward."""

    name: str
    rewards: tuple[RewardSection, ...]
    official: bool = True
    scale: float = 1.0
    """Factor on all scores: 100 for benchmarks that publish 100 times a cosine."""
    facts: tuple[str, ...] = ()
    """Fields of a prompt's metadata that the judgment repeats, because the scores depend on them."""
    facts_source: str = ""
    """The files that have these fields, for errors."""

    @property
    def fingerprint(self) -> str:
        """The identities of the rewards, and the scale."""
        return "; ".join([*map(reward_identity, self.rewards), f"times {self.scale:g}"])

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `ValueError` if a reward could not be loaded or a prompt lacks a field."""
        for prompt in prompts:
            if lacking := [name for name in self.facts if name not in prompt.metadata]:
                raise ValueError(
                    f"the prompt {prompt.text!r} has no {lacking[0]}; use {self.facts_source} as published"
                )
        for section in self.rewards:
            check_reward(section)

    def load(self, device: "torch.device") -> JudgeImages:
        """Load all rewards."""
        return partial(self._judge, [load_reward(section, device) for section in self.rewards])

    def _judge(
        self, rewards: "Sequence[Reward]", images: "Sequence[Image.Image]", prompts: Sequence[Prompt]
    ) -> list[Judgment]:
        texts = [prompt.text for prompt in prompts]
        columns: dict[str, list[Scored]] = {
            section.name: score_images(reward, images, texts, section.batch_size)
            for section, reward in zip(self.rewards, rewards, strict=True)
        }
        return [
            self._judgment({name: scored[row] for name, scored in columns.items()}, prompt)
            for row, prompt in enumerate(prompts)
        ]

    def _judgment(self, scored: "Mapping[str, Scored]", prompt: Prompt) -> Judgment:
        scores: dict[str, float] = {}
        for name, one in scored.items():
            if one.score is None:
                return failed(f"{name}: {one.error}")
            scores[name] = self.scale * one.score
        facts = {name: prompt.metadata[name] for name in self.facts}
        cut = [name for name, one in scored.items() if one.truncated]
        first = next(iter(scores.values()))
        return {"score": first, "scores": scores, **facts, **({"truncated": cut} if cut else {})}


def reward_section(
    name: str,
    *,
    source: str | None = None,
    checkpoint: str | None = None,
    options: Mapping[str, Any] | None = None,
    command: str | None = None,
    url: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> RewardSection:
    """Return the section of a reward from the options of a judge; raises `ValueError` for wrong ones.

    `command` is a program's command line, split as a shell would.
    """
    program = tuple(shlex.split(command)) if command else ()
    if program or url:
        source = options = None
    try:
        return RewardSection(
            name=name,
            source=source,
            checkpoint=checkpoint,
            options=dict(options or {}),
            command=program,
            url=url,
            batch_size=batch_size,
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None


def official_reward(
    source: str,
    *,
    official: bool = True,
    scale: float = 1.0,
    facts: Sequence[str] = (),
    facts_source: str = "",
) -> Callable[..., RewardScores]:
    """Return the factory of a judge by one shipped reward, with the options `checkpoint` and `batch_size`.

    With other weights than those of the reward, the judge is not the official one and says so in its name.
    """

    def make(*, checkpoint: str | None = None, batch_size: int = BATCH_SIZE) -> RewardScores:
        section = reward_section(source, checkpoint=checkpoint, batch_size=batch_size)
        published = checkpoint is None or _is_published(source, checkpoint)
        return RewardScores(
            name=source if published else f"{source} ({checkpoint})",
            rewards=(section,),
            official=official and published,
            scale=scale,
            facts=tuple(facts),
            facts_source=facts_source,
        )

    return make


def several_rewards(facts: Sequence[str] = (), facts_source: str = "") -> Callable[..., RewardScores]:
    """Return the factory of a judge by the rewards that the option `rewards` names.

    It has the further options `checkpoint`, other weights for a single reward, and `batch_size`.
    """

    def make(
        *, rewards: str = "pickscore", checkpoint: str | None = None, batch_size: int = BATCH_SIZE
    ) -> RewardScores:
        names = [name.strip() for name in rewards.split(",") if name.strip()]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"rewards: {rewards!r} must name different rewards, separated by commas")
        if checkpoint is not None and len(names) > 1:
            raise ValueError("checkpoint: applies to a single reward")
        return RewardScores(
            name=", ".join(names) + (f" ({checkpoint})" if checkpoint else ""),
            rewards=tuple(reward_section(n, checkpoint=checkpoint, batch_size=batch_size) for n in names),
            official=checkpoint is None,
            facts=tuple(facts),
            facts_source=facts_source,
        )

    return make


def check_reward(section: RewardSection) -> None:
    """Raise `ValueError` if the reward could not be loaded here."""
    for finding in check_reward_source(section):
        if finding.severity == "error":
            raise ValueError(finding.message)


def _is_published(source: str, checkpoint: str) -> bool:
    """Return whether the weights are the reward's own: its repository, or the file that users download."""
    entry = find_entry(source)
    if entry is None:
        return False
    (name, commit), (published, pinned) = split_revision(checkpoint), split_revision(entry.checkpoint)
    if name == published:
        return pinned in (None, commit)
    return entry.pickle_file is not None and PurePosixPath(checkpoint).name == entry.pickle_file
