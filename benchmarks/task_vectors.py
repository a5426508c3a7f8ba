"""Measure how far full policies are from their base in weight space, and the angles between them.

    python benchmarks/task_vectors.py POLICY POLICY...

A policy is a run directory or a policy folder; all must have the same base. Prints the length of every task
vector (the weights of the denoiser minus the base's) and the cosine between any two.
"""

import itertools
import math
import sys
from pathlib import Path

import torch

from capo.diffusion.saved import find_policy
from capo.method.soup import task_vector_gram
from capo.recipe import ModelSection
from capo.soups.full_models import DENOISERS, BaseWeights, StoredWeights, base_folder, weight_files


def main(names: list[str]) -> None:
    """Print lengths and cosines of the policies' task vectors."""
    policies = [find_policy(Path(name)) for name in names]
    model = ModelSection(**policies[0].record["model"])
    for policy in policies:
        policy.check_base(model)
    part = next(name for name in DENOISERS if (policies[0].folder / name).is_dir())
    stored = [StoredWeights(weight_files(policy.folder / part)) for policy in policies]
    files = weight_files(base_folder(model) / part, model.variant)
    base = BaseWeights(StoredWeights(files), getattr(torch, model.dtype), stored[0])
    gram = task_vector_gram(base, stored)
    lengths = [math.sqrt(gram[i][i]) for i in range(len(policies))]
    for name, length in zip(names, lengths, strict=True):
        print(f"{name}: length {length:.3f}")
    for i, j in itertools.combinations(range(len(policies)), 2):
        print(f"{names[i]} and {names[j]}: cosine {gram[i][j] / (lengths[i] * lengths[j]):.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
