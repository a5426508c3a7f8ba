"""A human study: what raters see, and what only its owner knows.

    STUDY/page/index.html   the page; publish this folder and nothing else
    STUDY/page/images/      the images, named by digest
    STUDY/study.json        what the page shows, for programs: no names of models
    STUDY/key.json          which side of a pair is which model, and which pairs are catch trials
    STUDY/votes/            the votes that came back

`study.json` contains the digest of `key.json`, and its `id` is a digest of everything else in it. Votes
name the id, so they belong to exactly one set of pairs and one key.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from capo.prompts.text_rules import LONGEST_TEXT
from capo.store.manifest import canonical

FORMAT: Literal[1] = 1
PAGE, IMAGES = "page", "images"
STUDY, KEY, VOTES = "study.json", "key.json", "votes"
BASE, TUNED = "base", "tuned"
"""Names in `Key.models` that every study has."""

RATER = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""The names that raters may have: they become parts of file names."""

Side = Literal["left", "right"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
PairName = Annotated[str, Field(pattern=r"^p[0-9]{4,6}$")]
MOST_CHARACTERS = 10_000
"""Of a title, an instruction or a question."""
Text = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]


class HumanStudyError(ValueError):
    """A study that is damaged, incomplete, or of another version; the message names the file."""


class Record(BaseModel):
    """An immutable part of a study or of its votes: no unknown fields, no conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Content = TypeVar("Content", bound=Record)


class Question(Record):
    """A question about every pair."""

    name: Name
    text: Text


class StudyImage(Record):
    """One image of a pair."""

    file: str
    """Its path in `page/`: `images/` and the beginning of its digest."""
    sha256: Digest
    width: Annotated[int, Field(gt=0)]
    """in pixels"""
    height: Annotated[int, Field(gt=0)]
    """in pixels"""

    @model_validator(mode="after")
    def _named_by_digest(self) -> Self:
        if self.file not in {image_path(self.sha256, suffix) for suffix in ("png", "webp", "jpeg")}:
            raise ValueError(f"{self.file!r} is not named by its digest {self.sha256}")
        return self


class StudyPair(Record):
    """Two images of a prompt. `left` and `right` are shuffled; a rater may see them exchanged."""

    pair: PairName
    prompt: Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
    left: StudyImage
    right: StudyImage

    @property
    def content(self) -> str:
        """Identifies prompt and images, whatever their sides: the same for a pair and its repetition."""
        return f"{self.prompt}\n{'-'.join(sorted((self.left.sha256, self.right.sha256)))}"


class HumanStudy(Record):
    """What raters see: the content of `study.json`."""

    format: Literal[1]
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    title: Text
    instruction: Text
    questions: Annotated[tuple[Question, ...], Field(min_length=1, strict=False)]
    tie: bool
    """True if raters may answer that neither image is better."""
    raters: Annotated[int, Field(gt=0)]
    """The planned number of raters; more may vote."""
    key: Digest
    """The digest of `key.json`."""
    pairs: Annotated[tuple[StudyPair, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for what, names in (
            ("pair", [pair.pair for pair in self.pairs]),
            ("question", [question.name for question in self.questions]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"two {what}s have the same name")
        if self.id != study_id(self.model_dump(mode="json")):
            raise ValueError("the content does not match its id")
        return self


class ModelName(Record):
    """A model of the study."""

    name: str
    """As its owner knows it."""
    identity: str
    """Identifies everything its images depend on, apart from the recipe's settings."""


class KeyPair(Record):
    """What is behind a pair; `left` and `right` are names in `Key.models`."""

    left: Name
    right: Name
    prompt_id: str
    category: str | None
    catch: Literal["identical", "repeated"] | None
    """`identical`: both sides show one image. `repeated`: the sides of the pair `of`, exchanged."""
    of: str | None
    """The pair that a catch trial repeats, or takes its image from."""


class Key(Record):
    """What only the owner knows: the content of `key.json`."""

    format: Literal[1]
    models: dict[Name, ModelName]
    """`base`, which all others are compared with, `tuned`, and `more1`, `more2`, ..."""
    seed: int
    pairs: dict[str, KeyPair]


def study_id(values: Mapping[str, Any]) -> str:
    """Return the id of a study: the first 16 digits of a digest of all of `values` but `id`."""
    return content_digest({name: value for name, value in values.items() if name != "id"})[:16]


def content_digest(values: Any) -> str:
    """Return the SHA-256 of values as canonical JSON: sorted keys, no spaces, ASCII."""
    return sha256_of(canonical(values).encode("ascii"))


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def image_path(sha256: str, suffix: str) -> str:
    """Return the path in `page/` of an image with this digest."""
    return f"{IMAGES}/{sha256[:32]}.{suffix}"


def read_study(folder: Path) -> HumanStudy:
    """Read `study.json`; raises `HumanStudyError` unless it is complete and unchanged."""
    return _read(folder / STUDY, HumanStudy)


def read_key(folder: Path, study: HumanStudy) -> Key:
    """Read `key.json`; raises `HumanStudyError` unless it is the key of this study, unchanged."""
    key = _read(folder / KEY, Key)
    if content_digest(key.model_dump(mode="json")) != study.key:
        raise HumanStudyError(
            f"{folder / KEY}: not the key of study {study.id}, or changed; restore the original"
        )
    if key.pairs.keys() != {pair.pair for pair in study.pairs}:
        raise HumanStudyError(f"{folder / KEY}: its pairs are not those of {STUDY}")
    return key


def check_study_images(folder: Path, study: HumanStudy) -> None:
    """Raise `HumanStudyError` unless every image of the study is there and unchanged."""
    for image in {image.file: image for pair in study.pairs for image in (pair.left, pair.right)}.values():
        path = folder / PAGE / image.file
        if path.is_symlink() or not path.is_file():
            raise HumanStudyError(f"{path}: missing, or not a regular file; restore the original")
        if sha256_of(path.read_bytes()) != image.sha256:
            raise HumanStudyError(f"{path}: changed since the study was made; restore the original")


def rater_order(study: HumanStudy, rater: str) -> list[StudyPair]:
    """Return the pairs in the order in which a rater sees them.

    The order is that of SHA-256(`order`, study id, rater, pair). The repetition of a pair is moved half the
    study away from it. The page computes the same.
    """
    by_digest = sorted(study.pairs, key=lambda pair: _rater_digest("order", study, rater, pair.pair))
    first: dict[str, int] = {}
    positions: list[tuple[float, StudyPair]] = []
    distinct = len({pair.content for pair in by_digest})
    for pair in by_digest:
        if (place := first.get(pair.content)) is None:
            place = first[pair.content] = len(first)
            positions.append((place, pair))
        else:
            positions.append(((place + distinct // 2) % distinct + 0.5, pair))
    return [pair for _, pair in sorted(positions, key=lambda entry: entry[0])]


def is_swapped(study: HumanStudy, rater: str, pair: StudyPair) -> bool:
    """Report whether a rater sees a pair with its sides exchanged.

    The first bit of SHA-256(`sides`, study id, rater, content of the pair) decides. It is the same for a pair
    and its repetition, whose sides are exchanged in `study.json`: so the rater sees them exchanged.
    """
    return int(_rater_digest("sides", study, rater, pair.content)[0], 16) >= 8


def _rater_digest(purpose: str, study: HumanStudy, rater: str, what: str) -> str:
    return sha256_of("\n".join((purpose, study.id, rater, what)).encode())


def _read(path: Path, schema: type[Content]) -> Content:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise HumanStudyError(f"{path} does not exist; `capo people make` writes it") from error
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise HumanStudyError(f"{path}: {where}: {first['msg']}; restore the original") from error
