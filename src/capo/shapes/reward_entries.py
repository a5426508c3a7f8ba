"""The rewards of the embedded world, for the entry points `capo.reward_catalog`."""

from dataclasses import replace

from capo.rewards.catalog import CLIP_PREFERENCE, CatalogEntry
from capo.shapes.checkpoint_paths import CHECKPOINTS

BUILT_BY = "capo shapes build"
DECODER_VQA = "decoder_vqa:DecoderVqaScore"

PREFERENCE = CatalogEntry(
    CLIP_PREFERENCE,
    str(CHECKPOINTS / "preference"),
    "which image simulated people prefer for a prompt",
    scale="log-odds",
    license="Apache-2.0",
    parameters_millions=0.87,
    built_by=BUILT_BY,
)
VQA = CatalogEntry(
    DECODER_VQA,
    str(CHECKPOINTS / "vqa"),
    "the probability that the image shows its prompt, by a small question-answering model",
    scale="0 to 1",
    license="Apache-2.0",
    parameters_millions=1.3,
    built_by=BUILT_BY,
)
VQA_1 = replace(
    VQA,
    checkpoint=str(CHECKPOINTS / "vqa-1"),
    measures="an earlier shapes-vqa, blind to positions; the recipes shapes-1 and shapes-flow-1 use it",
)
AESTHETIC = CatalogEntry(
    "image_classifier:AestheticRating",
    str(CHECKPOINTS / "aesthetic"),
    "how simulated people rate the look of an image, regardless of its prompt",
    scale="1 to 10",
    license="Apache-2.0",
    parameters_millions=0.16,
    built_by=BUILT_BY,
)
HELDOUT = CatalogEntry(
    CLIP_PREFERENCE,
    str(CHECKPOINTS / "heldout"),
    "like shapes-preference, with another seed and size; for evaluation only",
    scale="log-odds",
    license="Apache-2.0",
    parameters_millions=1.3,
    built_by=BUILT_BY,
)
