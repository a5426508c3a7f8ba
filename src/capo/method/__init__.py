"""The mathematics of Calibrated Preference Optimization: pure functions on torch tensors.

Leading dimensions `...` are batch; results are on their inputs' device. The modules follow the
paper from scores to models:

    calibration     raw scores -> expected win-rates        Eqs. 2, 7, 28
    selection       rewards -> chosen and rejected sets     Sec. 4.3
    settled         pairs -> are samples enough
    weighting       log-SNR -> loss weight                  Sec. 4.4, Eq. 26
    objective       errors -> implicit reward -> loss       Eqs. 8, 22, 23
    soup            several policies -> one                 Eq. 29
    low_rank        the same of LoRA policies
    winrate         scores of two models -> win-rate        App. B.2
    significance    win-rates -> is it more than chance
    diversity       images of a prompt -> how unlike each other
"""

from .calibration import BradleyTerry, Comparison, PowerRatio, Threshold, calibrate
from .diversity import pairwise_distance
from .objective import (
    capo_loss,
    denoising_error,
    dpo_loss,
    implicit_accuracy,
    implicit_reward,
    ipo_loss,
)
from .selection import (
    Selection,
    allowed_pairs,
    combine,
    draw_pair,
    lower_frontier,
    select_best_worst,
    select_frontier,
    select_sum,
    upper_frontier,
)
from .significance import SignTest, detectable_difference, paired_bootstrap, prompts_needed, sign_test
from .soup import slerp, soup_tensors  # `soup` itself would hide its module
from .weighting import (
    ddpm_log_snr,
    flow_log_snr,
    flow_sigmoid_weight,
    flow_time,
    sigmoid_weight,
)
from .winrate import bootstrap_interval, same_seed_win_rate, standard_error, win_rate

__all__ = [
    "BradleyTerry",
    "Comparison",
    "PowerRatio",
    "Selection",
    "SignTest",
    "Threshold",
    "allowed_pairs",
    "bootstrap_interval",
    "calibrate",
    "capo_loss",
    "combine",
    "ddpm_log_snr",
    "denoising_error",
    "detectable_difference",
    "dpo_loss",
    "draw_pair",
    "flow_log_snr",
    "flow_sigmoid_weight",
    "flow_time",
    "implicit_accuracy",
    "implicit_reward",
    "ipo_loss",
    "lower_frontier",
    "paired_bootstrap",
    "pairwise_distance",
    "prompts_needed",
    "same_seed_win_rate",
    "select_best_worst",
    "select_frontier",
    "select_sum",
    "sigmoid_weight",
    "sign_test",
    "slerp",
    "soup_tensors",
    "standard_error",
    "upper_frontier",
    "win_rate",
]
