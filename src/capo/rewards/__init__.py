"""Reward models: what says how good an image is for its prompt.

One file an architecture, not one a checkpoint: a recipe names a shipped reward (`pickscore`), a
shipped architecture with other weights (`checkpoint:`), or a function of your own
(`source: package.module:function`). Scores stay on the reward's raw scale; how two of them
compare is declared beside (`build_comparison`), not baked in.

    reward = load_reward(RewardSection(name="pickscore"), "cuda")
    reward.score([image], ["a red circle"])        # float64 [1]
"""

from capo.rewards.batch_scoring import score_images
from capo.rewards.catalog import SHIPPED
from capo.rewards.comparison import describe_comparison, reject_negative
from capo.rewards.protocol import Reward, RewardError, Scored, TransientError
from capo.rewards.resolve import (
    build_comparison,
    declared_comparison,
    load_reward,
    pin_weights,
    reward_identity,
    reward_inputs,
)
from capo.rewards.transports.programs.capo_reward import serve_stdio

__all__ = [
    "SHIPPED",
    "Reward",
    "RewardError",
    "Scored",
    "TransientError",
    "build_comparison",
    "declared_comparison",
    "describe_comparison",
    "load_reward",
    "pin_weights",
    "reject_negative",
    "reward_identity",
    "reward_inputs",
    "score_images",
    "serve_stdio",
]
