"""Simulated raters: rehearse a study, or test its analysis against a known truth.

Opinions come from simulated people, such as those of the embedded world, who look at the images and the
prompt. Conduct is added on top: what raters do instead of looking.
"""

import io
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.engine.seeds import stable_seed
from capo.pairing.simulated_people import People
from capo.people.human_study import (
    BASE,
    PAGE,
    HumanStudy,
    Key,
    StudyImage,
    StudyPair,
    is_swapped,
    rater_order,
)
from capo.people.votes import Choice
from capo.prompts import Prompt

if TYPE_CHECKING:
    from PIL import Image

FIRST_VOTE = datetime(2026, 1, 1, tzinfo=UTC)
"""The time at which simulated raters begin, so that equal seeds give equal files."""


@dataclass(frozen=True)
class Conduct:
    """What a rater does instead of looking, as shares of votes; the rest are opinions."""

    random: float = 0.0
    """Votes for a random side."""
    left: float = 0.0
    """Votes for the left side of the screen."""
    taste: float = 0.0
    """Votes for the model that is not the base, whatever the images show; for the base if negative."""
    ms: int = 2500
    """Typical time of a vote."""


CONDUCTS = {
    "careful": Conduct(),
    "noisy": Conduct(random=0.4),
    "biased": Conduct(taste=0.3),
    "sided": Conduct(left=0.97),
    "lazy": Conduct(random=1.0, ms=300),
}
"""Kinds of raters by name."""


class SimulatedRaters:
    """Raters of one study, by any names."""

    def __init__(
        self, folder: Path, study: HumanStudy, key: Key, people: People, prompts: Mapping[str, Prompt]
    ) -> None:
        """`prompts` are by text, with the metadata that `people` need.

        Raises `ValueError` if a prompt of the study is missing or cannot be compared.
        """
        self._folder, self._study, self._key = folder, study, key
        self._people, self._prompts = people, prompts
        self._images: dict[str, Image.Image] = {}
        for pair in study.pairs:
            if pair.prompt not in prompts or not people.can_compare(prompts[pair.prompt]):
                raise ValueError(
                    f"the simulated people cannot judge the prompt {pair.prompt!r} of {pair.pair}"
                )

    def answer(self, rater: str, conduct: Conduct, pair: StudyPair, question: str) -> tuple[Choice, int]:
        """Return the side of the screen that a rater chooses, and the milliseconds it takes.

        It depends on the study, the rater, the pair and the question alone.
        """
        rng = random.Random(stable_seed("simulated-rater", self._study.id, rater, pair.pair, question))
        ms = round(conduct.ms * rng.lognormvariate(0, 0.4))
        draw = rng.random()
        if draw < conduct.random:
            return rng.choice(("left", "right")), ms
        if draw < conduct.random + conduct.left:
            return "left", ms
        about = self._key.pairs[pair.pair]
        if draw < conduct.random + conduct.left + abs(conduct.taste) and about.left != about.right:
            side: Choice = "left" if (about.left == BASE) == (conduct.taste < 0) else "right"
        else:
            side = self._opinion(pair, rng)
        return self._on_screen(side, rater, pair), ms

    def ballot(self, rater: str, conduct: Conduct) -> dict[str, Any]:
        """Return the content of a votes file, without its digest, of a rater who judges every pair."""
        moment, votes = FIRST_VOTE, []
        for pair in rater_order(self._study, rater):
            for question in self._study.questions:
                choice, ms = self.answer(rater, conduct, pair, question.name)
                moment += timedelta(milliseconds=ms)
                votes.append(
                    {
                        "pair": pair.pair,
                        "question": question.name,
                        "choice": choice,
                        "swapped": is_swapped(self._study, rater, pair),
                        "ms": ms,
                        "at": _text(moment),
                    }
                )
        return {
            "format": 1,
            "study": self._study.id,
            "rater": rater,
            "started": _text(FIRST_VOTE),
            "finished": _text(moment),
            "agent": "simulated",
            "votes": votes,
        }

    def _opinion(self, pair: StudyPair, rng: random.Random) -> Choice:
        """Return the side in `study.json`; if the study allows no ties, a tie is decided at random."""
        if pair.left.sha256 == pair.right.sha256:
            first = 0.5
        else:
            images = [self._image(pair.left), self._image(pair.right)]
            ((a, _, preferred),) = self._people.compare(images, self._prompts[pair.prompt], rng)
            first = preferred if a == 0 else 1 - preferred
        if first == 0.5:
            return "tie" if self._study.tie else rng.choice(("left", "right"))
        return "left" if first > 0.5 else "right"

    def _on_screen(self, side: Choice, rater: str, pair: StudyPair) -> Choice:
        if side == "tie" or not is_swapped(self._study, rater, pair):
            return side
        return "right" if side == "left" else "left"

    def _image(self, image: StudyImage) -> "Image.Image":
        from PIL import Image

        if image.file not in self._images:
            data = (self._folder / PAGE / image.file).read_bytes()
            with Image.open(io.BytesIO(data)) as opened:
                self._images[image.file] = opened.convert("RGB")
        return self._images[image.file]


def _text(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
