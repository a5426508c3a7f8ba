"""A reward on sample images: what it says, how fast, in how much memory, and whether it conforms."""

import time
from typing import Any

import numpy as np

from capo.recipe import RewardSection
from capo.rewards.checking.conformance import check_reward
from capo.rewards.checking.trial_images import trial_images
from capo.rewards.resolve import load_reward


def try_reward(section: RewardSection, device: Any) -> dict[str, Any]:
    """Load what `section` names onto `device` and try it; plain values, memory in bytes."""
    before, started = _memory(), time.perf_counter()
    reward = load_reward(section, device)
    loaded = time.perf_counter()
    images, prompts = trial_images()
    report = check_reward(reward, images, prompts)
    speed = None
    if np.isfinite(report.scores).any():
        warm = time.perf_counter()
        reward.score(images, prompts)
        speed = len(images) / (time.perf_counter() - warm)
    found = [None if np.isnan(score) else float(score) for score in report.scores]
    return {
        "name": section.name,
        "passed": report.passed,
        "checks": [{"check": check.what, "problem": check.problem} for check in report.checks],
        "scores": [{"prompt": p, "score": score} for p, score in zip(prompts, found, strict=True)],
        "seconds_to_load": loaded - started,
        "images_per_second": speed,
        "device": str(device),
        "memory": _memory() - before,
        "device_memory": _device_memory(),
    }


def _memory() -> int:
    """Bytes of this process and of those it has started."""
    import psutil

    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:  # it ended meanwhile
            continue
    return total


def _device_memory() -> int | None:
    """The most bytes of a GPU that torch has had; None without one."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
