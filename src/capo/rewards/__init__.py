"""Reward models, which score how good an image is for its prompt.

A recipe names a shipped reward (`pickscore`), a shipped architecture with other weights
(`checkpoint:`), a function (`source: package.module:function`), a program or a server. Scores stay
on the raw scale of their reward; a comparison says how two of them become a win probability.

    reward = load_reward(RewardSection(name="pickscore"), "cuda")
    reward.score([image], ["a red circle"])        # float64 [1]

| question                                    | module                                    |
|---------------------------------------------|-------------------------------------------|
| What is a reward?                           | `protocol`                                |
| Which rewards exist?                        | `catalog`; facts for users in `describe`  |
| What does a section of a recipe mean?       | `resolve`, `shipped_source`, `transports` |
| What do the scores depend on?               | `resolve.reward_identity`                 |
| How do two scores compare?                  | `comparison`                              |
| How is a batch scored, retried, checked?    | `batch_scoring`                           |
| Which scores are known already?             | `score_cache`                             |
| Does a reward follow the rules?             | `checking`                                |
| Where are weights, how are they loaded?     | `weights`                                 |
| How does an architecture compute its score? | `models`, one file each                   |
"""

from capo.rewards.batch_scoring import score_images
from capo.rewards.catalog import entry_names, find_entry, shipped_entry
from capo.rewards.comparison import describe_comparison, reject_negative
from capo.rewards.protocol import Reward, RewardError, Scored, TransientError
from capo.rewards.resolve import (
    build_comparison,
    check_reward_source,
    declared_comparison,
    load_reward,
    pin_weights,
    reward_identity,
    reward_inputs,
)
from capo.rewards.transports.programs.capo_reward import serve_stdio

__all__ = [
    "Reward",
    "RewardError",
    "Scored",
    "TransientError",
    "build_comparison",
    "check_reward_source",
    "declared_comparison",
    "describe_comparison",
    "entry_names",
    "find_entry",
    "load_reward",
    "pin_weights",
    "reject_negative",
    "reward_identity",
    "reward_inputs",
    "score_images",
    "serve_stdio",
    "shipped_entry",
]
