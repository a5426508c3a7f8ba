"""The two towers of a CLIP model, which embed texts and images as unit vectors in one space."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.functional import normalize

from capo.rewards.rgb_images import as_rgb, crop_strip
from capo.rewards.weights.load_weights import load_component

if TYPE_CHECKING:
    from PIL import Image

    Preparation = Callable[[list[Image.Image]], Tensor]
    """n images -> pixel values [n, 3, H, W]."""


class ClipTowers:
    """A loaded `CLIPModel` with the tokenizer at `location` and a function that prepares images."""

    def __init__(self, model: Any, location: str, prepare: "Preparation") -> None:
        self.model = model
        self.tokens = ClipTokens(location, model.config.text_config.max_position_embeddings)
        self._prepare = prepare

    def cosine(self, images: "list[Image.Image]", prompts: list[str]) -> Tensor:
        """Return float32 [n] in [-1, 1]: the cosine of each image with its own prompt."""
        return (self._embed_images(images) * self._embed_texts(prompts)).sum(-1)

    def _embed_texts(self, prompts: list[str]) -> Tensor:
        distinct = list(dict.fromkeys(prompts))
        row_of = {prompt: row for row, prompt in enumerate(distinct)}
        tokens = self.tokens(distinct).to(self.model.device)
        output = self.model.get_text_features(tokens.input_ids, tokens.attention_mask)
        return normalize(output.pooler_output, dim=-1)[[row_of[prompt] for prompt in prompts]]

    def _embed_images(self, images: "list[Image.Image]") -> Tensor:
        pixels = self._prepare(images).to(self.model.device)
        return normalize(self.model.get_image_features(pixels).pooler_output, dim=-1)


class ClipTokens:
    """CLIP's tokenizer. Prompts are cut at `length` tokens (77), start and end token included."""

    def __init__(self, location: str, length: int) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = load_component(AutoTokenizer, location)
        self._length = length

    def __call__(self, prompts: list[str], *, full: bool = False) -> Any:
        """Tokenize, padded to the longest prompt, or to `length` if `full`."""
        padding = "max_length" if full else True
        return self._tokenizer(
            prompts, padding=padding, truncation=True, max_length=self._length, return_tensors="pt"
        )

    def truncated(self, prompts: list[str]) -> list[bool]:
        """Return for each prompt whether it is longer than the model reads."""
        return [len(ids) > self._length for ids in self._tokenizer(prompts, verbose=False).input_ids]


def clip_preparation(location: str) -> "Preparation":
    """Return CLIP's own preparation: resize the shortest side, then crop the middle square."""
    from transformers.models.clip import CLIPImageProcessorPil

    processor = load_component(CLIPImageProcessorPil, location)
    return lambda images: (
        processor([crop_strip(as_rgb(image)) for image in images], return_tensors="pt").pixel_values
    )
