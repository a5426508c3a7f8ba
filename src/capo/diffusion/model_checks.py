"""Checks of a checkpoint before a run: whether its weights are here, and whether the settings fit it.

The model is built from its configurations alone, on torch's `meta` device, by the code that loads it later.
"""

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from capo.diffusion import load_family, locate, resolve_checkpoint
from capo.diffusion.configuration_files import SMALL_FILES, configuration_folder
from capo.pretrained.hub_access import HubAccessError, find_repository
from capo.pretrained.tokenizer_packages import missing_packages
from capo.recipe import GenerateSection, ModelSection, TrainSection
from capo.store.check import Check, Finding, finding_of
from capo.store.remembered import described_files, remember
from capo.store.step import StageName

CHECKPOINT = "model.checkpoint"

Load = Callable[[], Sequence[str]]
"""Returns the texts of prompts."""

FEW_STEPS = 10
"""More sampling steps than any distilled model is meant for."""


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model without its weights. Facts are None if the model or the settings are wrong."""

    findings: tuple[Finding, ...]
    image_size: tuple[int, int] | None = None
    """Height and width in pixels."""
    latent_bytes: int = 0
    """Of the latent of one image."""
    conditioning_bytes: int | None = None
    """Of what the text encoders make of one prompt; None if they cannot compute shapes alone."""
    trained: int = 0
    """Parameters that training changes."""
    parameters: int = 0
    """Parameters of all networks."""
    lacking: tuple[str, ...] = ()
    """Networks whose weights are not on this machine."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "ModelFacts":
        """Return the facts of which `asdict` gave the values, read back from JSON."""
        size = values["image_size"]
        return cls(
            tuple(Finding(**finding) for finding in values["findings"]),
            None if size is None else (size[0], size[1]),
            values["latent_bytes"],
            values["conditioning_bytes"],
            values["trained"],
            values["parameters"],
            tuple(values["lacking"]),
        )


def model_check(
    section: ModelSection, generate: GenerateSection, train: TrainSection, stage: StageName
) -> Check:
    """The check that `stage` can load the model and use it with the settings."""
    return Check(CHECKPOINT, stage, partial(_check_model, section, generate, train), machine=True)


def _check_model(section: ModelSection, generate: GenerateSection, train: TrainSection) -> Iterator[Finding]:
    if missing := list(_missing_packages(section)):  # without which nothing else can be known
        yield from (Finding(CHECKPOINT, sentence) for sentence in missing)
        return
    facts, path = model_facts(section, generate, train), resolve_checkpoint(section.checkpoint)
    local = Path(path).exists()
    if not local and (Path(path).is_absolute() or path.endswith(".safetensors")):  # no Hub id
        yield Finding(CHECKPOINT, f"{Path(path).absolute()} does not exist")
        return
    if not local and (facts.lacking or any(f.field == CHECKPOINT for f in facts.findings)):
        try:
            repository = find_repository(path, section.revision)
        except HubAccessError as error:  # says best why the model cannot be fetched
            yield Finding(CHECKPOINT, f"{error}; name a diffusers directory, or a Hub id that can be fetched")
            return
        yield Finding(CHECKPOINT, f"{path} will be downloaded ({repository})", "note")
    elif facts.lacking:
        parts = ", ".join(facts.lacking)
        yield Finding(
            CHECKPOINT,
            f"{path} has no weights for {parts}; set model.config to a diffusers directory that has them",
        )
    yield from facts.findings


def _missing_packages(section: ModelSection) -> Iterator[str]:
    """Yield what the tokenizers of the model lack; nothing if it cannot be read, as other checks report."""
    try:
        folder = configuration_folder(section)
        parts = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return
    for name, kind in sorted(parts.items()):
        if name.startswith("tokenizer") and kind != [None, None]:
            yield from missing_packages(folder / name)


def model_facts(section: ModelSection, generate: GenerateSection, train: TrainSection) -> ModelFacts:
    """Build the model without weights and try the settings on it; facts without an error are remembered."""
    return _facts(section.model_dump_json(), generate.model_dump_json(), train.model_dump_json())


def length_check(section: ModelSection, field: str, load: Load, stage: StageName) -> Check:
    """The check that the text encoders read the whole prompts of `field`, which `load` returns."""
    return Check(f"{field}.source", stage, partial(_check_length, section, field, load))


def _check_length(section: ModelSection, field: str, load: Load) -> Iterator[Finding]:
    try:
        texts, model = list(load()), section.model_dump_json()
        known, digest = _files(model), hashlib.blake2b("\0".join(texts).encode()).hexdigest()

        def count() -> int:
            return sum(_weightless(model).truncates(texts))

        long = count() if known is None else remember(["long prompts", model, known, digest], count)
    except Exception:  # the checks of the prompts and of the model say what is wrong
        return
    if long:
        counted = f"{long:,} of {len(texts):,} prompts are longer than the text encoders read"
        yield Finding(field, f"{counted}; their end has no effect", "warning")


@lru_cache(maxsize=4)  # several checks ask
def _facts(model: str, generate: str, train: str) -> ModelFacts:
    found: list[ModelFacts] = []

    def find() -> dict[str, Any] | None:
        found.append(facts := _found_facts(model, generate, train))
        return None if any(f.severity == "error" for f in facts.findings) else asdict(facts)

    known = _files(model)
    if known is None:
        find()
        return found[0]
    values = remember(["facts", model, generate, train, known], find)
    return found[0] if found else ModelFacts.from_values(values)


def _files(model: str) -> list[Any] | None:
    """Return what identifies the files of a model; None if that is not known without opening them."""
    section = ModelSection.model_validate_json(model)
    try:
        checkpoint = Path(resolve_checkpoint(section.checkpoint))
        if not checkpoint.is_file():
            known = [described_files(configuration_folder(section), SMALL_FILES)]
        elif section.config is not None and Path(section.config).is_dir():
            known = [[_header_digest(checkpoint)], described_files(Path(section.config), SMALL_FILES)]
        else:
            return None
        known += [described_files(Path(lora.path), (*SMALL_FILES, "*.safetensors")) for lora in section.loras]
    except Exception:  # building the model says what is wrong
        return None
    return None if None in known else known


def _header_digest(file: Path) -> str:
    """Return the digest of the names and shapes in a safetensors file, which is all that checks read."""
    with file.open("rb") as opened:
        return hashlib.blake2b(opened.read(int.from_bytes(opened.read(8), "little"))).hexdigest()


def _found_facts(model: str, generate: str, train: str) -> ModelFacts:
    section = ModelSection.model_validate_json(model)
    settings, training = (
        GenerateSection.model_validate_json(generate),
        TrainSection.model_validate_json(train),
    )
    try:
        source, family = locate(section), _weightless(model)
    except Exception as error:  # diffusers and transformers raise many types for a malformed configuration
        return ModelFacts((finding_of(error, CHECKPOINT),))
    findings: list[Finding] = []

    def attempt(work: Callable[[], Any], field: str) -> Any:
        try:
            return work()
        except (ValueError, ImportError, RuntimeError) as error:
            findings.append(finding_of(error, field))
            return None

    size = attempt(lambda: family.image_size(settings), "generate.height")
    attempt(lambda: family.check_sampler(settings), "generate.scheduler")
    trained = attempt(lambda: _check_training(family, training), "train") or 0
    attempt(lambda: _arrange(family.denoiser, section), "model")
    for part in _parts(family):
        attempt(partial(_check_weights, source, part), CHECKPOINT)
    findings += _few_steps(family, settings)
    latent = 0 if size is None else math.prod(family.latent_shape(settings)) * family.dtype.itemsize
    sizes = attempt(lambda: (_conditioning_bytes(family), _parameters(family)), "model.loras")
    conditioning, parameters = sizes or (None, 0)
    lacking = tuple(_lacking(family, source))
    return ModelFacts(tuple(findings), size, latent, conditioning, trained, parameters, lacking)


def _parameters(family: Any) -> int:
    return sum(p.numel() for network in family.networks.values() for p in network.parameters())


def _few_steps(family: Any, settings: GenerateSection) -> Iterator[Finding]:
    """Warn about many steps with a checkpoint that was distilled for few, as its own scheduler shows."""
    own = family.scheduler_config
    kind, steps = own.get("_class_name", ""), settings.num_inference_steps
    turbo = kind == "EulerAncestralDiscreteScheduler" and own.get("timestep_spacing") == "trailing"
    if (turbo or kind in ("LCMScheduler", "TCDScheduler")) and steps > FEW_STEPS:
        yield Finding(
            "generate.num_inference_steps",
            f"the checkpoint's own scheduler is {kind}: it was distilled for very few steps, and {steps} "
            "steps with guidance spoil its images. Try 4 steps of EulerDiscreteScheduler with guidance_scale "
            "0, and train.timesteps [249, 499, 749, 999]",
            "warning",
        )


@lru_cache(maxsize=2)
def _weightless(model: str) -> Any:
    """The family of a section, as JSON, on the meta device, where tensors have shapes but no values."""
    import torch

    from capo.diffusion.random_weights import RandomWeights

    meta = torch.device("meta")
    section = ModelSection.model_validate_json(model)
    # Settings of how to compute are tried separately; their problems do not hide others.
    plain = {"attention": None, "channels_last": False, "compile": False, "variant": None, "revision": None}
    plain |= {"config": None}
    here = section.model_copy(update=plain | {"checkpoint": str(configuration_folder(section))})
    return load_family(here, meta, RandomWeights(meta))


def _check_training(family: Any, section: TrainSection) -> int:
    """Return the number of parameters that training would change.

    Raises `ValueError` for times or adapter targets that the model does not have.
    """
    import torch

    from capo.diffusion.adapter import add_adapter

    family.process.draw_times(1, torch.Generator(), section)
    denoiser = copy.deepcopy(family.denoiser)
    if section.adaptation == "lora":
        add_adapter(denoiser, section, 0)
    return sum(p.numel() for p in denoiser.parameters() if p.requires_grad or section.adaptation == "full")


def _conditioning_bytes(family: Any) -> int | None:
    """Return the bytes of one prompt's conditioning, or None if the encoders cannot compute shapes alone.

    Raises `ValueError` for a LoRA that does not fit.
    """
    from capo.diffusion.random_weights import NoValues

    try:
        with NoValues():
            return sum(tensor.nbytes for tensor in family.encode([""]).values())
    except (ValueError, RuntimeError, NotImplementedError) as error:
        if str(error).startswith("model.loras"):
            raise
        return None


def _arrange(denoiser: Any, section: ModelSection) -> None:
    from capo.diffusion.arrangement import arrange

    arrange(denoiser, section.model_copy(update={"compile": False}))


def _parts(family: Any) -> dict[str, Any]:
    """The networks of the model and their classes."""
    from capo.diffusion.assembly import absent_parts

    kinds = {family.denoiser_name: family.denoiser_class, **family.text_encoders, "vae": family.vae_class}
    absent = absent_parts(family.pipeline_class, family.source)
    return {name: kind for name, kind in kinds.items() if name not in absent}


def _check_weights(source: Any, part: str) -> None:
    """Raise `ValueError` if a part has no weights that can be loaded, or only other variants."""
    from capo.diffusion.weight_files import chosen_variant

    if source.file is None:
        chosen_variant(source, part)


def _lacking(family: Any, source: Any) -> Iterator[str]:
    """Yield the networks of a single file or a Hub id without weights on this machine."""
    from capo.diffusion.single_file import has_part

    for name, kind in _parts(family).items():
        in_file = source.file is not None and has_part(source.file, kind, name)
        local = source.file is None and source.hub is None
        if not local and not in_file and not any((Path(source.path) / name).glob("*.safetensors")):
            yield name
