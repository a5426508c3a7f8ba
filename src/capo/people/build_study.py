"""Write the folder of a study from images of two or more models.

Everything is seeded: the same images and settings give the same study, with the same id.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from capo.engine.progress import progress
from capo.engine.seeds import stable_seed
from capo.images.encoding import encode_image
from capo.people.human_study import (
    FORMAT,
    IMAGES,
    KEY,
    MOST_CHARACTERS,
    PAGE,
    STUDY,
    VOTES,
    HumanStudy,
    Key,
    KeyPair,
    ModelName,
    Question,
    StudyImage,
    content_digest,
    image_path,
    sha256_of,
    study_id,
)
from capo.people.rater_page import INDEX, check_post, render_study
from capo.prompts import Prompt
from capo.prompts.text_rules import text_problem
from capo.rewards.rgb_images import decode_image
from capo.store.atomic import create_folder
from capo.store.manifest import pretty

ImageFormat = Literal["png", "webp", "jpeg"]

PREFERENCE = Question(name="preference", text="Which image looks better?")
PROMPT_FOLLOWING = Question(name="prompt-following", text="Which image shows better what the text says?")


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """How a study is put together, and what raters read."""

    title: str = "Compare two images"
    instruction: str | None = None
    """What raters read before the first pair; `default_instruction` if None."""
    questions: Sequence[Question] = (PREFERENCE,)
    tie: bool = False
    """True to let raters answer that neither image is better."""
    raters: int = 5
    """The planned number of raters."""
    catches: int | None = None
    """The number of catch trials, half of either kind; a tenth of the pairs if None."""
    seed: int = 0
    image_format: ImageFormat = "png"
    post: str | None = None
    """The address that the page sends finished votes to, if any."""


def default_instruction(questions: Sequence[Question], tie: bool) -> str:
    """Return what raters read before the first pair unless the owner says otherwise."""
    if len(questions) > 1:
        task = f"Every pair has {len(questions)} questions: answer them with the left or the right image."
    elif questions[0] == PREFERENCE:
        task = "Pick the left or the right one, whichever looks better."
    else:
        task = "Answer the question with the left or the right one."
    ties = ["If neither is better, choose “No difference”."] if tie else []
    advice = "There are no wrong answers: take a good look, then trust your impression."
    return " ".join(("You will see two images at a time.", task, *ties, advice))


@dataclass(frozen=True)
class ModelImages:
    """One model's images of the prompts of a study."""

    name: str
    identity: str
    read: Callable[[Prompt], bytes]
    """Returns the image file of a prompt; called in the order of the prompts."""


@dataclass(frozen=True)
class _Trial:
    """A pair before it has an id."""

    key: KeyPair
    prompt: Prompt
    of: "_Trial | None" = field(default=None, compare=False)


def check_settings(to: Path, settings: StudySettings, pairs: int) -> None:
    """Raise `ValueError` if a study of so many pairs cannot be made; for use before any image is."""
    if to.exists():
        raise ValueError(f"{to} exists already; name another folder with --to, or remove it")
    if settings.post is not None:
        check_post(settings.post)
    texts = {"--title": settings.title, "--question": settings.questions[0].text}
    if settings.instruction is not None:
        texts["--instruction"] = settings.instruction
    for option, text in texts.items():
        problem = text_problem(text) or (f"{len(text):,} characters" if len(text) > MOST_CHARACTERS else None)
        if problem is not None or not text.strip():
            raise ValueError(f"{option}: {problem or 'no text'}; use at most {MOST_CHARACTERS:,} characters")
    if settings.catches is not None and settings.catches > pairs:
        raise ValueError(f"{settings.catches} catch trials are more than the {pairs} pairs that they repeat")


def build_study(
    to: Path, prompts: Sequence[Prompt], models: Mapping[str, ModelImages], settings: StudySettings
) -> HumanStudy:
    """Create the folder `to` with the page, its images, `study.json` and `key.json`.

    `models` are `base`, `tuned`, `more1`, ...; all others are compared with the base. Images are decoded and
    written again in one format, without metadata, so that no file says which program made it. The folder
    appears whole or not at all. Raises the errors of `check_settings`, and `ValueError` for an image that
    cannot be read.
    """
    check_settings(to, settings, len(prompts) * (len(models) - 1))
    trials = _trials(prompts, list(models), settings)
    with create_folder(to) as folder:
        images = _write_images(folder, prompts, models, settings.image_format)
        ids = {id(trial): f"p{number:04d}" for number, trial in enumerate(trials, start=1)}
        key = Key(
            format=FORMAT,
            models={label: ModelName(name=m.name, identity=m.identity) for label, m in models.items()},
            seed=settings.seed,
            pairs={
                ids[id(t)]: t.key.model_copy(update={"of": None if t.of is None else ids[id(t.of)]})
                for t in trials
            },
        )
        pairs = [
            {
                "pair": ids[id(trial)],
                "prompt": trial.prompt.text,
                "left": images[trial.prompt.prompt_id, trial.key.left].model_dump(),
                "right": images[trial.prompt.prompt_id, trial.key.right].model_dump(),
            }
            for trial in trials
        ]
        study = _study(settings, pairs, content_digest(key.model_dump(mode="json")))
        (folder / STUDY).write_text(pretty(study.model_dump(mode="json")), encoding="utf-8")
        (folder / KEY).write_text(pretty(key.model_dump(mode="json")), encoding="utf-8")
        (folder / VOTES).mkdir()
        (folder / PAGE / INDEX).write_text(render_study(study, settings.post), encoding="utf-8")
    return study


def _study(settings: StudySettings, pairs: list[dict[str, Any]], key: str) -> HumanStudy:
    values: dict[str, Any] = {
        "format": FORMAT,
        "title": settings.title,
        "instruction": settings.instruction or default_instruction(settings.questions, settings.tie),
        "questions": [question.model_dump() for question in settings.questions],
        "tie": settings.tie,
        "raters": settings.raters,
        "key": key,
        "pairs": pairs,
    }
    return HumanStudy.model_validate(values | {"id": study_id(values)})


def _trials(prompts: Sequence[Prompt], labels: Sequence[str], settings: StudySettings) -> list[_Trial]:
    """Return all pairs in the order of their ids: comparisons and catch trials, shuffled."""
    seed = settings.seed
    compared = []
    for prompt in prompts:
        for label in labels[1:]:
            left, right = _shuffled(("people-sides", seed, prompt.prompt_id, label), (labels[0], label))
            compared.append(_Trial(_key(prompt, left, right), prompt))
    catches = round(len(compared) / 10) if settings.catches is None else settings.catches
    drawn = _shuffled(("people-catches", seed), compared)[:catches]
    repeated, identical = drawn[: catches // 2], drawn[catches // 2 :]
    trials = [*compared]
    for trial in repeated:
        key = _key(trial.prompt, trial.key.right, trial.key.left, "repeated")
        trials.append(_Trial(key, trial.prompt, trial))
    for trial in identical:
        side = trial.key.left  # which is either model, as sides are shuffled
        trials.append(_Trial(_key(trial.prompt, side, side, "identical"), trial.prompt, trial))
    return _shuffled(("people-order", seed), trials)


def _key(
    prompt: Prompt, left: str, right: str, catch: Literal["identical", "repeated"] | None = None
) -> KeyPair:
    return KeyPair(
        left=left, right=right, prompt_id=prompt.prompt_id, category=prompt.category, catch=catch, of=None
    )


def _shuffled(key: tuple[str | int, ...], items: Sequence[Any]) -> list[Any]:
    order = sorted(range(len(items)), key=lambda place: stable_seed(*key, place))
    return [items[place] for place in order]


def _write_images(
    folder: Path, prompts: Sequence[Prompt], models: Mapping[str, ModelImages], image_format: ImageFormat
) -> dict[tuple[str, str], StudyImage]:
    """Write every model's image of every prompt; returns them by prompt id and model."""
    assert image_format in get_args(ImageFormat)
    images: dict[tuple[str, str], StudyImage] = {}
    (folder / PAGE / IMAGES).mkdir(parents=True)
    for label, model in models.items():
        with progress(f"people: images of {label}", len(prompts), "images") as bar:
            for prompt in prompts:
                try:
                    image = decode_image(model.read(prompt))
                except ValueError as error:
                    raise ValueError(f"{model.name}: image of {prompt.text!r}: {error}") from error
                # A new image: the decoded one may carry comments and profiles.
                data = encode_image(Image.frombytes("RGB", image.size, image.tobytes()), image_format)
                digest = sha256_of(data)
                place = image_path(digest, image_format)
                (folder / PAGE / place).write_bytes(data)
                images[prompt.prompt_id, label] = StudyImage(
                    file=place, sha256=digest, width=image.width, height=image.height
                )
                bar.advance()
    return images
