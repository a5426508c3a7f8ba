"""Put a policy on the Hugging Face Hub: its files, its card, and images of the evaluation."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from capo.diffusion.saved import BEST, find_policy
from capo.pretrained.hub_access import HubAccessError
from capo.recipe import load_recipe
from capo.store import Run

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from PIL import Image

CARD = "README.md"
COMPARED, EXAMPLES = 8, 4
"""Prompts in the picture that compares the models, and images of the tuned model alone."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository."""

    path: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True)
class Target:
    """A repository to write to."""

    name: str
    exists: bool
    private: bool


def files_of(place: Path) -> list[HubFile]:
    """Return the files to push of a run directory or policy folder; all but the card and images are verified.

    Raises `ValueError` if there is no policy, and `WorkspaceError` naming a damaged file.
    """
    folder = find_policy(place).folder
    found: dict[str, HubFile] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            found[name] = HubFile(name, path)
    run = Run(place)
    evaluated = run.artifact("evaluate").done and run.artifact("baseline").done
    if folder == place / "train" / BEST and evaluated:
        for file in _evaluation(run, (folder / CARD).read_text(encoding="utf-8")):
            found[file.path] = file
    return [found[name] for name in sorted(found)]


def find_target(name: str, *, public: bool) -> Target:
    """Look up the repository `name`, which becomes a private one if it is new and not `public`.

    Raises `HubAccessError` without a login or network, and for a public repository that is to be private.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise HubAccessError(f"{name} cannot be written to: HF_HUB_OFFLINE turns the Hub off")
    if get_token() is None:
        raise HubAccessError("not logged in to the Hub; run `hf auth login`, or set HF_TOKEN")
    try:
        private = bool(_api().model_info(name).private)
    except RepositoryNotFoundError:
        return Target(name, exists=False, private=not public)
    except Exception as error:  # the library, its HTTP client and the network have error types of their own
        raise HubAccessError(f"{name} cannot be looked up: {type(error).__name__}: {error}") from error
    if not private and not public:
        raise HubAccessError(f"{name} exists and everyone can read it; add --public, or name another one")
    return Target(name, exists=True, private=private)


def push(files: Sequence[HubFile], target: Target) -> str:
    """Upload the files in one commit, and return its address.

    Creates the repository if there is none. Files of the repository with other names stay.
    """
    from huggingface_hub import CommitOperationAdd

    api = _api()
    try:
        if not target.exists:
            api.create_repo(target.name, private=target.private, exist_ok=True)
        operations = [CommitOperationAdd(file.path, _uploadable(file.content)) for file in files]
        commit = api.create_commit(target.name, operations, commit_message="Upload a policy made by capo")
    except Exception as error:
        raise HubAccessError(f"{target.name}: not uploaded: {type(error).__name__}: {error}") from error
    return str(commit.commit_url)


def _uploadable(content: Path | bytes) -> str | bytes:
    return content if isinstance(content, bytes) else str(content)


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(library_name="capo")


def _evaluation(run: Run, card: str) -> list[HubFile]:
    """Return the card with results, and the images it shows."""
    from capo.images.contact_sheet import SheetRow, contact_sheet
    from capo.reporting.both_models import evaluated_images
    from capo.reporting.hub_card import COMPARISON, evaluated_card
    from capo.reporting.results_schema import Results

    recipe = load_recipe(run.path / "recipe.yaml")
    rows = evaluated_images(run, COMPARED)
    sheet = contact_sheet([SheetRow(prompt, images) for prompt, images in rows], ("base", "tuned"), 320)
    files = [HubFile(COMPARISON, _png(sheet))]
    examples: dict[str, str] = {}
    for number, (prompt, (_, tuned)) in enumerate(rows[:EXAMPLES], start=1):
        files.append(HubFile(f"images/{number}.png", _png(tuned)))
        examples[prompt] = files[-1].path
    results = Results.model_validate(run.artifact("evaluate").read_json("results.json"))
    source = Path(recipe.evaluate.prompts.source).name
    text = evaluated_card(card, recipe.name, source, results, examples)
    return [*files, HubFile(CARD, text.encode())]


def _png(image: "Image.Image") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
