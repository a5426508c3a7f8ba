"""Rehearse a study: votes files of simulated raters, as its page would save them."""

from collections.abc import Sequence
from pathlib import Path

from capo.pairing.simulated_people import load_people
from capo.people.human_study import read_key, read_study
from capo.people.simulated_votes import CONDUCTS, SimulatedRaters
from capo.people.votes import ballot_name, ballot_text
from capo.prompts import load_prompts
from capo.recipe import PromptsSection
from capo.store import atomic


def write_simulated_votes(
    folder: Path, to: Path, kinds: Sequence[str], source: str, people: str
) -> list[Path]:
    """Write a votes file into the new folder `to` for every kind of rater in `kinds`.

    The first careful rater is called `careful-1`. `source` has the study's prompts with their metadata, as
    `prompts.source` in a recipe, and `people` are as in `pairs.people`.

    Raises `ValueError` for an unknown kind, and for prompts that these people cannot judge.
    """
    if unknown := [kind for kind in kinds if kind not in CONDUCTS]:
        raise ValueError(f"--raters {unknown[0]}: the kinds are {', '.join(CONDUCTS)}")
    study = read_study(folder)
    prompts = {prompt.text: prompt for prompt in load_prompts(PromptsSection(source=source), 0)}
    raters = SimulatedRaters(folder, study, read_key(folder, study), load_people(people), prompts)
    names: list[str] = []
    with atomic.create_folder(to) as place:
        for number, kind in enumerate(kinds):
            rater = f"{kind}-{kinds[: number + 1].count(kind)}"
            text = ballot_text(raters.ballot(rater, CONDUCTS[kind]))
            names.append(ballot_name(study, rater))
            (place / names[-1]).write_text(text, encoding="utf-8")
    return [to / name for name in names]
