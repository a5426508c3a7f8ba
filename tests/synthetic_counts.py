"""Counts of a model that does not exist, in round numbers: what plans are worked out from."""

from capo.cost.plan.counts import Sampling, Training
from capo.cost.plan.work_counter import Count

TERA = 10**12
SAMPLING = Sampling(
    encode=TERA, step=10 * TERA, steps=50, decode=5 * TERA, decode_dtype="float32",
    parameters={"unet": 10**9, "vae": 10**8}, weights={"unet": 2 * 10**9, "vae": 4 * 10**8}, denoiser="unet",
    conditioning=1000, latent=100, pixels=10_000, activations=10**8, decoding=10**9,
)  # fmt: skip
FULL = Training(
    reference=Count(2 * TERA, 10**8), policy=Count(6 * TERA, 4 * 10**9), checkpointed=Count(8 * TERA, 10**9),
    trained=10**9,
)  # fmt: skip
