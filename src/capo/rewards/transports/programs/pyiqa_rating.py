"""A metric of pyiqa for capo: `python pyiqa_rating.py METRIC DEVICE`."""

import os
import sys
from typing import Any

os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # before importing torch: reads tensors only from a pickle

import numpy as np
import pyiqa
import torch
from capo_reward import serve_stdio

metric = pyiqa.create_metric(sys.argv[1], device=torch.device(sys.argv[2]))
if metric.metric_mode != "NR" or metric.lower_better:
    sys.exit(f"{sys.argv[1]} does not rate single images with higher scores for better ones")


def score(images: list[Any], prompts: list[str]) -> list[float]:
    return [rate(image) for image in images]


def rate(image: Any) -> float:
    pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]
    return metric(pixels).item()


serve_stdio(score, comparison={"comparison": "bradley-terry", "temperature": 1.0})
