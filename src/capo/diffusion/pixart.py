"""PixArt-Σ."""

from typing import Any, ClassVar

from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel
from torch import Tensor
from transformers import T5EncoderModel

from capo.diffusion.family import Family
from capo.diffusion.process import DDPM


class PixArtSigma(Family):
    """A `PixArtSigmaPipeline`: a transformer with a DDPM schedule, trained with ε prediction.

    Conditioning is T5's `prompt_embeds` [P, tokens, D] and `prompt_attention_mask` [P, tokens]. The network
    also predicts the variance of a step, which neither training nor the samplers use.
    """

    pipeline_class = PixArtSigmaPipeline
    denoiser_name = "transformer"
    denoiser_class = PixArtTransformer2DModel
    text_encoders: ClassVar = {"text_encoder": T5EncoderModel}
    process_class = DDPM
    sequence_length = 300
    sampling: ClassVar = {
        "negative_prompt": None,  # already encoded
        "clean_caption": False,  # it depends on packages that may be missing
        "use_resolution_binning": False,  # images of exactly the requested size
    }

    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        embeds, mask, _, _ = self._pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self._tokens(),
        )
        return {"prompt_embeds": embeds, "prompt_attention_mask": mask}

    def _reach(self) -> tuple[Any, int]:
        return self._pipeline.tokenizer, self._tokens()

    def _predict(self, x_t: Tensor, t: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        prediction: Tensor = self.denoiser(
            x_t,
            timestep=t,
            encoder_hidden_states=conditioning["prompt_embeds"],
            encoder_attention_mask=conditioning["prompt_attention_mask"],
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return prediction[:, : x_t.shape[1]]
