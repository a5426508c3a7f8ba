"""Questions to a vision-language model about images: processor, chat template, next token, written answer."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from capo.rewards.protocol import RewardError
from capo.rewards.rgb_images import as_rgb
from capo.rewards.weights.load_weights import default_dtype, load_component, load_model

if TYPE_CHECKING:
    from PIL import Image

PLAIN_FORMAT = "USER: {}\n{} ASSISTANT:"
"""Image and question, for checkpoints without a chat template."""


class VisionLanguageModel:
    """Any transformers image-text-to-text model: float32 on a CPU, the precision of the weights elsewhere."""

    def __init__(self, checkpoint: str, device: Any, processor: str | None = None) -> None:
        """Load weights from `checkpoint`; tokenizer and image processor from `processor` if set."""
        from transformers import AutoModelForImageTextToText

        self._model = load_model(AutoModelForImageTextToText, checkpoint, device, default_dtype(device))
        self._processor = load_processor(processor or checkpoint, self._model.config)
        self.tokenizer = self._processor.tokenizer
        self.tokenizer.padding_side = "left"  # so that the answer follows the last position in every row
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def ask(self, question: str) -> str:
        """Return the text of a conversation with an image, `question` and the start of an answer.

        Raises `ValueError` for a question that contains the model's image token.
        """
        image_token = self._processor.image_token
        if image_token in question:
            raise ValueError(f"the prompt contains the model's image token {image_token!r}")
        if self._processor.chat_template is None:
            return PLAIN_FORMAT.format(image_token, question)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        # Templates without a thinking mode ignore this switch.
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=self._processor.chat_template,
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=False,
        )

    def next_token(self, images: "list[Image.Image]", texts: list[str]) -> Tensor:
        """Return log-probabilities of the token after each of n texts, float32 [n, vocabulary]."""
        # One step of generation instead of a bare forward, so that the architecture builds its own
        # position ids for padded rows. `logits` are raw, before any penalty.
        logits: Tensor = self._generate(images, texts, 1)[1].logits[0]
        return logits.float().log_softmax(-1)

    def answers(self, images: "list[Image.Image]", texts: list[str], max_new_tokens: int) -> list[str]:
        """Return the greedy continuation of each of n texts."""
        start, output = self._generate(images, texts, max_new_tokens)
        return self.tokenizer.batch_decode(output.sequences[:, start:], skip_special_tokens=True)

    def _generate(self, images: "list[Image.Image]", texts: list[str], length: int) -> tuple[int, Any]:
        """Return the length of the padded texts in tokens, and the output of `generate`."""
        from transformers import GenerationConfig

        inputs = self._processor(
            images=[[as_rgb(image)] for image in images],  # one list of images per text
            text=texts,
            padding=True,
            add_special_tokens=not self._has_start_token(texts[0]),
            return_tensors="pt",
        ).to(self._model.device, dtype=self._model.dtype)
        config = GenerationConfig(
            max_new_tokens=length,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            output_logits=length == 1,
            return_dict_in_generate=True,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return inputs.input_ids.shape[1], self._model.generate(**inputs, generation_config=config)

    def _has_start_token(self, text: str) -> bool:
        """Return True if the chat template has already added the start token."""
        start = self.tokenizer.bos_token
        return start is not None and text.startswith(start)


def load_processor(checkpoint: str, config: Any) -> Any:
    """Return the processor of a model with this configuration, without its video part.

    Raises `RewardError` if it cannot be read or needs a package that is not installed.
    """
    from transformers import AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    kind = PROCESSOR_MAPPING.get(type(config), None)
    videos = kind is not None and "video_processor" in kind.get_attributes()
    try:
        # Always resize with Pillow, because torchvision gives slightly different scores.
        return load_component(_without_videos(kind) if videos else AutoProcessor, checkpoint, backend="pil")
    except ImportError as error:
        raise RewardError(f"{checkpoint}: {error}") from error


def _without_videos(kind: Any) -> Any:
    """Return a processor class without its video part, which needs torchvision."""

    class ImageTextProcessor(kind):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: list[Any], processor_dict: dict[str, Any], **options: Any) -> Any:
            parts = list(args)
            parts.insert(kind.get_attributes().index("video_processor"), None)
            return super().from_args_and_dict(parts, processor_dict, **options)

    return ImageTextProcessor
