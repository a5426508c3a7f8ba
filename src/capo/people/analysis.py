"""The results of a human study: win-rates with intervals, agreement, side bias, times, raters set aside."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, quantiles
from typing import Any

from capo.engine.seeds import stable_seed
from capo.people.agreement import krippendorff_alpha, pairwise_agreement
from capo.people.clustered import CONFIDENCE, ClusteredMean, clustered_mean, variances
from capo.people.human_study import BASE, HumanStudy, Key
from capo.people.screening import Screened, screen
from capo.people.study_power import Votes
from capo.people.votes import VoteLine, VotesError

POWER = 0.8


@dataclass(frozen=True)
class Judgment:
    """A vote on a pair of a model and the base that is no catch trial."""

    vote: VoteLine
    model: str
    """the name in `Key.models` of the model compared with the base"""
    prompt_id: str
    category: str | None
    value: float
    """1 if the model was chosen, 0 if the base was, 1/2 for a tie"""
    counted: bool
    """False for a rater set aside"""


def judgments(votes: Iterable[VoteLine], key: Key, raters: Sequence[Screened]) -> list[Judgment]:
    """Return what every vote that is no catch trial says about a model."""
    aside = {rater.rater for rater in raters if rater.set_aside}
    found = []
    for vote in votes:
        about = key.pairs[vote.pair]
        if about.catch is not None:
            continue
        model = about.right if about.left == BASE else about.left
        chosen = {"left": about.left, "right": about.right}.get(vote.side)
        value = 0.5 if chosen is None else float(chosen == model)
        found.append(Judgment(vote, model, about.prompt_id, about.category, value, vote.rater not in aside))
    return found


def analyze(study: HumanStudy, key: Key, votes: Sequence[VoteLine]) -> dict[str, Any]:
    """Return the results, as in `results.json`.

    Raises `VotesError` without votes that count.
    """
    raters = screen(votes, key, study.tie)
    judged = judgments(votes, key, raters)
    counted = [judgment for judgment in judged if judgment.counted]
    if not counted:
        raise VotesError(f"study {study.id}: nothing to report: {_why_nothing(judged, raters)}")
    aside = {rater.rater for rater in raters if rater.set_aside}
    kept = [vote for vote in votes if vote.rater not in aside]
    return {
        "format": 1,
        "study": study.id,
        "title": study.title,
        "instruction": study.instruction,
        "questions": [question.model_dump() for question in study.questions],
        "tie": study.tie,
        "models": {name: model.name for name, model in key.models.items()},
        "planned_raters": study.raters,
        "votes": {"collected": len(votes), "judgments": len(judged), "counted": len(counted)},
        "comparisons": [
            _comparison(study, judged, model, question.name)
            for question in study.questions
            for model in key.models
            if any(j.model == model and j.vote.question == question.name for j in counted)
        ],
        "sides": _sides(study, kept),
        "seconds": _seconds(kept),
        "raters": [asdict(rater) for rater in raters],
        "pairs": _pairs(study, counted),
    }


def _why_nothing(judged: Sequence[Judgment], raters: Sequence[Screened]) -> str:
    if not judged:
        return "no votes yet; `capo people add` adds them"
    aside = "".join(f"\n  {rater.rater}: {rater.set_aside}" for rater in raters if rater.set_aside)
    return f"all raters are set aside; ask other raters{aside}"


@dataclass(frozen=True)
class VoteStatistics:
    """How votes of a study vary, as measured."""

    agreement: float
    """how often two raters give equal votes on a pair; below 1/2 by chance, or with ties"""
    spread: float
    """standard deviation of the raters' win-rates"""
    prompts: int
    raters: int

    @property
    def votes(self) -> Votes:
        """What a plan takes: an agreement of at least 1/2, that of coin flips."""
        return Votes(max(0.5, self.agreement), self.spread)


def vote_statistics(judged: Sequence[Judgment]) -> VoteStatistics:
    """Return how the votes of a study vary, to plan the next one.

    The spread of raters follows from the variance of the mean that raters share.
    """
    agreement = pairwise_agreement(_units(judged))
    raters, prompts = {j.vote.rater for j in judged}, {j.prompt_id for j in judged}
    if agreement is None or len(raters) < 2 or len(prompts) < 2:
        raise VotesError("too few votes to plan with: two raters must have judged the same two prompts")
    parts = variances(*_columns(judged))
    spread = (max(0.0, parts.raters - parts.single) * len(raters)) ** 0.5
    return VoteStatistics(agreement, spread, len(prompts), len(raters))


def _comparison(study: HumanStudy, judged: Sequence[Judgment], model: str, question: str) -> dict[str, Any]:
    about = [j for j in judged if j.model == model and j.vote.question == question]
    counted = [j for j in about if j.counted]

    def mean(what: str, chosen: Sequence[Judgment]) -> dict[str, Any]:
        seed = stable_seed("people", study.id, model, question, what)
        return _shown(clustered_mean(*_columns(chosen), seed=seed))

    categories = sorted({j.category for j in counted if j.category is not None})
    units = _units(counted)
    return {
        "model": model,
        "question": question,
        "win_rate": mean("all", counted),
        "with_all_raters": mean("with those set aside", about),
        "ties": sum(j.value == 0.5 for j in counted) / len(counted),
        "alpha": krippendorff_alpha(units),
        "agreement": pairwise_agreement(units),
        "categories": {
            name: mean(f"category {name}", [j for j in counted if j.category == name]) for name in categories
        },
    }


def _shown(mean: ClusteredMean) -> dict[str, Any]:
    """Return a mean as in `results.json`, with the difference that this many votes show in 80% of studies."""
    detectable = None
    if mean.error is not None:
        normal = NormalDist()
        detectable = (normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(POWER)) * mean.error
    return asdict(mean) | {"detectable": detectable}


def _sides(study: HumanStudy, votes: Sequence[VoteLine]) -> dict[str, Any] | None:
    sided = [vote for vote in votes if vote.choice != "tie"]
    if not sided:
        return None
    prompts = {pair.pair: pair.prompt for pair in study.pairs}
    left = clustered_mean(
        [float(vote.choice == "left") for vote in sided],
        [prompts[vote.pair] for vote in sided],
        [vote.rater for vote in sided],
        seed=stable_seed("people", study.id, "sides"),
    )
    return asdict(left)


def _seconds(votes: Sequence[VoteLine]) -> dict[str, float] | None:
    times = [vote.ms / 1000 for vote in votes if vote.ms is not None]
    if not times:
        return None
    quarters = quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"lower_quartile": quarters[0], "median": quarters[1], "upper_quartile": quarters[2]}


def _pairs(study: HumanStudy, counted: Sequence[Judgment]) -> list[dict[str, Any]]:
    """Return every pair and question with its votes, in the order of the study."""
    prompts = {pair.pair: pair.prompt for pair in study.pairs}
    groups: dict[tuple[str, str], list[Judgment]] = {}
    for judgment in counted:
        groups.setdefault(judgment.vote.key, []).append(judgment)
    return [
        {
            "pair": pair,
            "question": question,
            "model": group[0].model,
            "prompt_id": group[0].prompt_id,
            "prompt": prompts[pair],
            "category": group[0].category,
            "votes": len(group),
            "for_model": sum(j.value == 1 for j in group),
            "ties": sum(j.value == 0.5 for j in group),
            "share": sum(j.value for j in group) / len(group),
        }
        for (pair, question), group in sorted(groups.items())
    ]


def _columns(judged: Sequence[Judgment]) -> tuple[list[float], list[str], list[str]]:
    return [j.value for j in judged], [j.prompt_id for j in judged], [j.vote.rater for j in judged]


def _units(judged: Sequence[Judgment]) -> Mapping[str, list[float]]:
    units: dict[str, list[float]] = {}
    for judgment in judged:
        units.setdefault(f"{judgment.vote.pair} {judgment.vote.question}", []).append(judgment.value)
    return units
