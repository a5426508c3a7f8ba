"""VQAScore: the probability that a vision-language model answers yes.

Lin et al., "Evaluating Text-to-Visual Generation with Image-to-Text Generation" (2024), with the
official question. The score is P(answer token) in [0, 1], a softmax over the whole vocabulary at
the first position of the answer, so two scores compare by the power ratio with exponent 1
(Eq. 28). Not to be confused with P(yes) / (P(yes) + P(no)), nor with the score of CLIP-FlanT5,
which also counts the end token and is about the square root of this one.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from capo.method.calibration import PowerRatio
from capo.rewards.images import as_rgb
from capo.rewards.loading import load_model, load_part
from capo.rewards.protocol import RewardError

if TYPE_CHECKING:
    from PIL import Image

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
PLAIN_FORMAT = "USER: {}\n{} ASSISTANT:"
"""Image and question, for checkpoints that have no chat template."""
ANSWERS = (" Yes", "Yes", " yes", "yes")


class VqaScore:
    """Any transformers image-text-to-text model; float32 on a CPU, its own precision elsewhere."""

    comparison = PowerRatio(exponent=1.0)

    def __init__(self, name: str, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """Weights from `checkpoint`; tokenizer and image processor from `processor` if given."""
        from transformers import AutoModelForImageTextToText, GenerationConfig

        self.name = name
        dtype = torch.float32 if torch.device(device).type == "cpu" else "auto"
        self._model = load_model(AutoModelForImageTextToText, checkpoint, device, dtype)
        self._processor = _load_processor(processor or checkpoint, self._model.config)
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "left"  # the last position is then the answer's in every row
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._answer = answer_token(tokenizer, self._ask("a"))
        self._generation = GenerationConfig(
            max_new_tokens=1,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=tokenizer.pad_token_id,
        )

    @torch.inference_mode()
    def score(self, images: "list[Image.Image]", prompts: list[str]) -> np.ndarray:
        """float64 [n] in [0, 1]; raises `ValueError` for a prompt that holds the image token."""
        texts = [self._ask(prompt) for prompt in prompts]
        inputs = self._processor(
            images=[as_rgb(image) for image in images],
            text=texts,
            padding=True,
            add_special_tokens=not self._starts_whole(texts[0]),
            return_tensors="pt",
        ).to(self._model.device, dtype=self._model.dtype)
        # One step of generation rather than a bare forward: each architecture then builds its own
        # position ids for the padded rows. `logits` are the raw ones, before any penalty.
        logits: Tensor = self._model.generate(**inputs, generation_config=self._generation).logits[0]
        return logits.float().softmax(-1)[:, self._answer].double().cpu().numpy()

    def _ask(self, prompt: str) -> str:
        image_token = self._processor.image_token
        if image_token in prompt:
            raise ValueError(f"the prompt holds the model's image token {image_token!r}")
        question = QUESTION.format(prompt)
        if self._processor.chat_template is None:
            return PLAIN_FORMAT.format(image_token, question)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def _starts_whole(self, text: str) -> bool:
        """Whether the chat template has put the start token there already."""
        start = self._processor.tokenizer.bos_token
        return start is not None and text.startswith(start)


def answer_token(tokenizer: Any, text: str) -> int:
    """The token with which the answer "yes" goes on after `text`.

    As the tokenizer splits `text + answer` for the answers " Yes", "Yes", " yes", "yes" (after
    white space those without a leading space only): the first that is one known token.
    """
    before = tokenizer(text, add_special_tokens=False).input_ids
    for answer in ANSWERS:
        if answer[0] == " " and text[-1].isspace():
            continue
        ids = tokenizer(text + answer, add_special_tokens=False).input_ids
        if ids[:-1] == before and ids[-1] != tokenizer.unk_token_id:
            return int(ids[-1])
    raise RewardError(f"{tokenizer.name_or_path}: its tokenizer has no single token for Yes or yes")


def _load_processor(checkpoint: str, config: Any) -> Any:
    from transformers import AutoProcessor

    try:
        # Always Pillow's resizing: torchvision's gives slightly different scores.
        return load_part(AutoProcessor, checkpoint, backend="pil")
    except ImportError:
        return load_part(_without_videos(config), checkpoint, backend="pil")


def _without_videos(config: Any) -> Any:
    """The model's processor class without its video part, which is what needs torchvision."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    whole: Any = PROCESSOR_MAPPING[type(config)]

    class ImageTextProcessor(whole):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

    return ImageTextProcessor
