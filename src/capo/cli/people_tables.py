"""Print what a study consists of."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo.cli.tables import print_text

if TYPE_CHECKING:
    from capo.people.human_study import HumanStudy


def study_values(folder: Path, study: "HumanStudy") -> dict[str, Any]:
    """Return a new study as JSON values."""
    from capo.people.human_study import PAGE, read_key
    from capo.people.rater_page import INDEX
    from capo.people.screening import has_right_answer

    key = read_key(folder, study)
    files = {image.file for pair in study.pairs for image in (pair.left, pair.right)}
    return {
        "directory": str(folder),
        "page": str(folder / PAGE / INDEX),
        "study": study.id,
        "prompts": len({pair.prompt_id for pair in key.pairs.values()}),
        "pairs": len(study.pairs),
        "catch_trials": sum(pair.catch is not None for pair in key.pairs.values()),
        "equal_images": sum(
            pair.left.sha256 == pair.right.sha256 and key.pairs[pair.pair].catch is None
            for pair in study.pairs
        ),
        "judged_votes": len(study.questions)
        * sum(has_right_answer(pair, study.tie) for pair in key.pairs.values()),
        "questions": [question.name for question in study.questions],
        "raters": study.raters,
        "votes": study.raters * len(study.pairs) * len(study.questions),
        "image_bytes": sum((folder / PAGE / file).stat().st_size for file in files),
    }


def print_study(folder: Path, study: "HumanStudy") -> None:
    """Print the size of a new study, and what to do with it."""
    from capo.people.screening import FEWEST_CATCH_TRIALS
    from capo.reporting.wording import count

    values = study_values(folder, study)
    print_text(
        f"Study {study.id}: {values['pairs']:,} pairs of {values['prompts']:,} prompts, "
        f"{values['catch_trials']} of them catch trials; {values['votes']:,} votes of {study.raters} raters"
    )
    if values["equal_images"]:
        print_text(
            f"Warning: {count(values['equal_images'], 'pair')} with two equal images: their votes are chance"
        )
    if (judged := values["judged_votes"]) < FEWEST_CATCH_TRIALS:
        print_text(
            f"Warning: {judged} votes of a rater are on catch trials with a right answer, and the rule needs "
            f"{FEWEST_CATCH_TRIALS}: raters are set aside by sides and times alone. "
            + ("Raise --catches" if study.tie else "Allow ties with --tie")
        )
    print_text(f"Page: {values['page']} ({values['image_bytes'] / 1e6:,.1f} MB of images)")
    print_text(f"Publish {folder / 'page'} and nothing else, or: capo people serve {folder}")
