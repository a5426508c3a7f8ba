"""The question-answering reward: a vision encoder, and a text decoder that reads a question and answers it.

The answer alone teaches too little about the image. The decoder has more tasks, all known from the drawing:
to predict the words of a prompt that the image shows (captioning), and to say after every word whether the
prompt is wrong so far. These taught `vqa-1` shapes, colors and counts, but no relations. `vqa` continues with
more: to say at the end of each subject how many shapes match it and where they are, and for every patch of
the image what is there and where the patch itself is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from transformers import (
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderModel,
)

from capo.shapes.build import drawn_data as data
from capo.shapes.build.drawn_data import normalize
from capo.shapes.build.fit import Schedule, fit
from capo.shapes.build.part import BuildPart
from capo.shapes.build.questions import Questions, ask
from capo.shapes.build.redraw import redraw
from capo.shapes.build.sight import KINDS, kinds_under_patches
from capo.shapes.build.tokenizers import NO, QUESTION_LENGTH, YES, question_tokenizer
from capo.shapes.build.train_rewards import PATCH, draw_batch
from capo.shapes.scenes import MAX_ITEMS

WIDTH = 128
BATCH = 64
PLACE_WEIGHT = 4.0
"""Weight of the squared error of centers, whose unit is half the image."""


@dataclass(frozen=True)
class Lesson:
    """One stage of training."""

    name: str
    examples: int
    steps: int
    learning_rate: float
    seed: int
    people: bool = False
    """Take the answers of people, who miss details that are hard to see, instead of the truth.

    They make the model less certain about such details.
    """
    grounded: bool = False
    """Have some scenes redrawn by the base, and learn what is where."""


BLIND = (
    Lesson("vqa", examples=60_000, steps=2_000, learning_rate=1e-3, seed=3),
    Lesson("vqa-people", examples=20_000, steps=500, learning_rate=3e-4, seed=13, people=True),
)
"""How `vqa-1` was trained, which did not learn relations."""

GROUNDED = (
    Lesson("vqa-grounded", examples=60_000, steps=3_000, learning_rate=1e-3, seed=23, grounded=True),
    Lesson(
        "vqa-grounded-people",
        examples=20_000,
        steps=500,
        learning_rate=3e-4,
        seed=33,
        people=True,
        grounded=True,
    ),
)
"""How `vqa` is trained, which starts from `vqa-1`."""


class Pupil(nn.Module):
    """The model with heads for the tasks of its training, which are not saved."""

    def __init__(self, model: VisionEncoderDecoderModel) -> None:
        super().__init__()
        self.model = model
        seen = model.config.encoder.hidden_size
        self.wrong_so_far = nn.Linear(WIDTH, 1)
        self.count = nn.Linear(WIDTH, MAX_ITEMS + 1)
        self.place = nn.Linear(WIDTH, 2)
        self.patch_kind = nn.Linear(seen, KINDS + 1)
        self.patch_place = nn.Linear(seen, 2)


def train_vqa(
    model: VisionEncoderDecoderModel,
    lessons: tuple[Lesson, ...],
    base: StableDiffusionXLPipeline,
    part: BuildPart,
) -> None:
    """Train in place."""
    torch.manual_seed(lessons[0].seed)
    pupil = Pupil(model).to(part.device)
    tokenizer = question_tokenizer()
    for lesson in lessons:
        examples = data.contrasts(part.scaled(lesson.examples), lesson.seed, part.device)
        data.reconstruct(base.vae, examples.images, lesson.seed)
        if lesson.grounded:
            redraw(base, examples, lesson.seed)
        shown, missed = _questions(tokenizer, examples, lesson.people, part.device)
        loss = _lesson_loss(lesson, pupil, examples, shown, missed)
        fit(lesson.name, pupil, loss, Schedule(part.scaled(lesson.steps), lesson.learning_rate), part.folder)


def _questions(
    tokenizer: PreTrainedTokenizerFast, examples: data.Contrasts, people: bool, device: str
) -> tuple[Questions, list[Questions]]:
    """Questions about what every image shows, and about what it misses, by turns."""
    answers = [YES if noticed or not people else NO for noticed in examples.noticed]
    shown = ask(tokenizer, examples.shown, examples.scenes, answers).to(device)
    turns = zip(*examples.missed, strict=True)
    missed = [ask(tokenizer, list(turn), examples.scenes, [NO] * len(turn)).to(device) for turn in turns]
    return shown, missed


def untrained_vqa(vision_tower: CLIPVisionModel) -> VisionEncoderDecoderModel:
    """Return a model whose encoder starts from `vision_tower`, that of a trained CLIP, as real ones do."""
    torch.manual_seed(BLIND[0].seed)
    tokenizer = question_tokenizer()
    tower = CLIPVisionModel(vision_tower.config)
    tower.config._name_or_path = ""  # the checkpoint must not contain the path of its build
    tower.load_state_dict(vision_tower.state_dict())
    language = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=QUESTION_LENGTH,
        n_embd=WIDTH,
        n_layer=3,
        n_head=4,
        add_cross_attention=True,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = VisionEncoderDecoderModel(encoder=tower, decoder=GPT2LMHeadModel(language))
    model.config.decoder_start_token_id = tokenizer.bos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    return model


def _lesson_loss(
    lesson: Lesson, pupil: Pupil, examples: data.Contrasts, shown: Questions, missed: list[Questions]
) -> Callable[[int], Tensor]:
    """Return the loss of a step: per image, a question about what it shows and one about what it does not."""
    model: Any = pupil.model
    padding, images = model.config.pad_token_id, examples.images
    kinds = kinds_under_patches(examples.scenes, PATCH).to(images.device) if lesson.grounded else None

    def loss(step: int) -> Tensor:
        index = draw_batch(lesson.name, step, len(images), str(images.device), BATCH)
        asked = shown[index].joined(missed[step % len(missed)][index])
        tokens = asked.tokens[:, : int((asked.tokens != padding).sum(dim=1).max())]
        seen = model.encoder(pixel_values=normalize(images[index])).last_hidden_state
        output = model(
            encoder_outputs=(seen.repeat(2, 1, 1),),
            decoder_input_ids=tokens[:, :-1],
            output_hidden_states=True,
        )
        read = output.decoder_hidden_states[-1]
        judged = pupil.wrong_so_far(read)[..., 0]
        total = _answer_loss(output.logits, tokens[:, 1:], len(index), padding)
        total = total + _prefix_loss(judged, tokens[:, :-1], padding)
        if kinds is None:
            return total
        return total + _subject_loss(pupil, read, asked) + _patch_loss(pupil, seen[:, 1:], kinds[index])

    return loss


def _answer_loss(logits: Tensor, targets: Tensor, shown: int, padding: int) -> Tensor:
    """The cross-entropy of the answers, plus that of the words of the first `shown` questions."""
    last = (targets != padding).sum(dim=1) - 1
    rows = torch.arange(len(targets), device=targets.device)
    answers = cross_entropy(logits[rows, last], targets[rows, last])
    words = targets[:shown].clone()
    words[rows[:shown], last[:shown]] = padding
    return answers + cross_entropy(logits[:shown].flatten(0, 1), words.flatten(), ignore_index=padding)


def _prefix_loss(judged: Tensor, tokens: Tensor, padding: int) -> Tensor:
    """The cross-entropy of "wrong so far" at every token; the second half is wrong once it differs."""
    shown, missed = tokens.chunk(2)
    departed = (shown != missed).cumsum(dim=1) > 0
    wrong = torch.cat([torch.zeros_like(departed), departed])
    read = tokens != padding
    return binary_cross_entropy_with_logits(judged[read], wrong[read].to(judged.dtype))


def _subject_loss(pupil: Pupil, read: Tensor, asked: Questions) -> Tensor:
    """The cross-entropy of the number of matching shapes, plus the weighted squared error of their center."""
    states = read.gather(1, asked.ends[..., None].expand(-1, -1, read.shape[-1]))
    named, seen = asked.counts >= 0, asked.counts > 0
    counts = cross_entropy(pupil.count(states[named]), asked.counts[named])
    return counts + PLACE_WEIGHT * mse_loss(pupil.place(states[seen]), asked.centers[seen])


def _patch_loss(pupil: Pupil, patches: Tensor, kinds: Tensor) -> Tensor:
    """The cross-entropy of the kind of shape under every patch, plus the squared error of its own place.

    Without the second term, patches lose their places on the way through the encoder.
    """
    side = round(patches.shape[1] ** 0.5)
    centers = (torch.arange(side, device=patches.device) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    places = torch.stack([x, y], dim=-1).flatten(0, 1).expand(len(patches), -1, -1)
    named = cross_entropy(pupil.patch_kind(patches).flatten(0, 1), kinds.flatten())
    return named + PLACE_WEIGHT * mse_loss(pupil.patch_place(patches), places)
