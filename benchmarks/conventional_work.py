"""Count the FLOPs per pair that the conventional training loop spends outside the denoiser.

Reads only configurations, no weights, and needs no GPU. Prints the table of docs/evidence/performance.md.
"""

import torch

from capo.cost.plan.counts import count_training
from capo.cost.plan.weightless import META, weightless
from capo.cost.plan.work_counter import count
from capo.recipe import Recipe, load_recipe

RECIPES = ("sd15", "sdxl", "sd3", "sd35", "flux")
LORA = ("train.adaptation=lora", "train.reference_dtype=float32", "model.dtype=bfloat16", "train.dtype=null")


def beside(recipe: Recipe) -> tuple[int, int]:
    """Return FLOPs of the VAE on two images and the text encoders on a prompt, and their bytes."""
    with weightless(recipe.model) as family, torch.no_grad():
        height, width = family.image_size(recipe.generate)
        images = torch.empty(2, 3, height, width, device=META, dtype=family.vae.dtype)
        encode = count(lambda: family.vae.encode(images)).flops + count(lambda: family.encode([""])).flops
        networks = [net for name, net in family.networks.items() if name != family.denoiser_name]
        return encode, 2 * sum(weight.numel() for net in networks for weight in net.parameters())


def main() -> None:
    print(
        "| | denoiser: reference, policy and back | VAE and text encoders | share | their weights, bfloat16 |"
    )
    print("|---|--:|--:|--:|--:|")
    for name in RECIPES:
        recipe = load_recipe(name, LORA)
        training = count_training(recipe)
        denoiser = training.reference.flops + training.policy.flops
        work, weights = beside(recipe)
        cells = (f"{denoiser / 1e12:.1f} T", f"{work / 1e12:.1f} T", f"{work / denoiser:.0%}")
        print("|", name, "|", " | ".join(cells), "|", f"{weights / 1e9:.1f} GB |")


if __name__ == "__main__":
    main()
