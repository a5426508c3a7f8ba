"""A reward tried on the trial images: its scores, speed, memory and conformance."""

import time
from typing import Any

import numpy as np

from capo.recipe import RewardSection
from capo.rewards.checking.conformance import check_reward
from capo.rewards.checking.trial_images import trial_images
from capo.rewards.resolve import load_reward


def try_reward(section: RewardSection, device: Any) -> dict[str, Any]:
    """Load the reward of `section` onto `device` and try it; return plain values, memory in bytes."""
    memory, started = _process_memory(), time.perf_counter()
    reward = load_reward(section, device)
    loaded = time.perf_counter()
    images, prompts = trial_images()
    report = check_reward(reward, images, prompts)
    speed = None
    if np.isfinite(report.scores).any():
        copies = [image.copy() for image in images]
        warm = time.perf_counter()
        reward.score(copies, list(prompts))
        speed = len(images) / (time.perf_counter() - warm)
    scores = [None if np.isnan(score) else float(score) for score in report.scores]
    return {
        "name": section.name,
        "passed": report.passed,
        "checks": [{"check": check.what, "problem": check.problem} for check in report.checks],
        "scores": [{"prompt": p, "score": score} for p, score in zip(prompts, scores, strict=True)],
        "seconds_to_load": loaded - started,
        "images_per_second": speed,
        "device": str(device),
        "memory": _process_memory() - memory,
        "device_memory": _peak_device_memory(),
    }


def _process_memory() -> int:
    """Return the resident bytes of this process and of the processes it started."""
    import psutil

    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:  # it ended in the meantime
            continue
    return total


def _peak_device_memory() -> int | None:
    """Return the most bytes that torch has used of a GPU, or None without a GPU."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
