"""Comparison models by name: how two raw scores of a reward become a win probability."""

from typing import TYPE_CHECKING, Any

from capo.rewards.protocol import RewardError

if TYPE_CHECKING:
    import numpy as np

    from capo.method.calibration import Comparison

NAMES = ("bradley-terry", "power-ratio", "threshold")


def named_comparison(name: str) -> "Comparison":
    """The comparison that a recipe calls `name`, with its default parameter."""
    from capo.method.calibration import BradleyTerry, PowerRatio, Threshold

    kinds: dict[str, Any] = dict(zip(NAMES, (BradleyTerry, PowerRatio, Threshold), strict=True))
    return kinds[name]()


def parse_comparison(told: Any) -> "Comparison | None":
    """What `describe_comparison` tells, or a name alone, as a comparison again; None for None.

    Raises `RewardError` for any other value, and for a parameter that the comparison does not have.
    """
    match told:
        case None:
            return None
        case str() if told in NAMES:
            return named_comparison(told)
        case {"comparison": str(name)} if name in NAMES:
            kind: Any = type(named_comparison(name))
            try:
                return kind(**{key: value for key, value in told.items() if key != "comparison"})
            except (TypeError, ValueError) as error:
                raise RewardError(f"comparison {told}: {error}") from None
    raise RewardError(
        f"comparison {told!r}: expected one of {', '.join(NAMES)}, or as "
        '{"comparison": "bradley-terry", "temperature": 1.0}'
    )


def describe_comparison(comparison: "Comparison | None") -> dict[str, Any] | None:
    """Its name and parameter as JSON values: `{"comparison": "bradley-terry", "temperature": 1.0}`."""
    from capo.method.calibration import BradleyTerry, PowerRatio, Threshold

    match comparison:
        case None:
            return None
        case BradleyTerry():
            return {"comparison": "bradley-terry", "temperature": comparison.temperature}
        case PowerRatio():
            return {"comparison": "power-ratio", "exponent": comparison.exponent}
        case Threshold():
            return {"comparison": "threshold"}
    # Not repr: it may hold an address in memory, and runs are to be the same byte for byte.
    return {"comparison": getattr(comparison, "__qualname__", type(comparison).__qualname__)}


def reject_negative(
    name: str, comparison: "Comparison | None", scores: "np.ndarray", prompt_ids: Any, samples: Any
) -> None:
    """Raise `RewardError` for the first score [n] that is negative where the power ratio compares."""
    from capo.method.calibration import PowerRatio

    if not isinstance(comparison, PowerRatio) or not (scores < 0).any():
        return
    first = int((scores < 0).argmax())
    raise RewardError(
        f"reward {name!r}: score {scores[first]:g} of prompt {prompt_ids[first]}, sample "
        f"{samples[first]} is negative; the power ratio needs scores of 0 or more: use "
        "`comparison: bradley-terry`, or another scale"
    )
