"""Comparisons by name: how two raw scores of a reward become a win probability."""

from typing import TYPE_CHECKING, Any

from capo.rewards.protocol import RewardError

if TYPE_CHECKING:
    import numpy as np

    from capo.method.calibration import Comparison

NAMES = ("bradley-terry", "power-ratio", "threshold")

SHOWN = 200
"""Characters of an unknown comparison in an error message."""


def named_comparison(name: str) -> "Comparison":
    """Return the comparison that a recipe calls `name`, with its default parameter."""
    from capo.method.calibration import BradleyTerry, PowerRatio, Threshold

    kinds: dict[str, Any] = dict(zip(NAMES, (BradleyTerry, PowerRatio, Threshold), strict=True))
    return kinds[name]()


def parse_comparison(value: Any) -> "Comparison | None":
    """Return the comparison that a JSON value describes: a name, the form of `describe_comparison`, or None.

    Raises `RewardError` for any other value and for a parameter that the comparison does not have.
    """
    match value:
        case None:
            return None
        case str() if value in NAMES:
            return named_comparison(value)
        case {"comparison": str(name)} if name in NAMES:
            kind: Any = type(named_comparison(name))
            try:
                return kind(**{key: parameter for key, parameter in value.items() if key != "comparison"})
            except (TypeError, ValueError) as error:
                raise RewardError(f"comparison {repr(value)[:SHOWN]}: {error}") from None
    raise RewardError(
        f"comparison {repr(value)[:SHOWN]}: expected one of {', '.join(NAMES)}, or a form such as "
        '{"comparison": "bradley-terry", "temperature": 1.0}'
    )


def parse_declared(reward: str, value: Any) -> "Comparison | None":
    """Return the comparison that a program or server declares; errors name the reward."""
    try:
        return parse_comparison(value)
    except RewardError as error:
        raise RewardError(f"reward {reward!r}: it declares a {error}") from None


def describe_comparison(comparison: "Comparison | None") -> dict[str, Any] | None:
    """Return name and parameter as JSON values: `{"comparison": "bradley-terry", "temperature": 1.0}`."""
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
    # Not repr(), which can contain a memory address; runs must be reproducible byte for byte.
    return {"comparison": getattr(comparison, "__qualname__", type(comparison).__qualname__)}


def reject_negative(
    name: str, comparison: "Comparison | None", scores: "np.ndarray", prompt_ids: Any, samples: Any
) -> None:
    """Raise `RewardError` for the first negative score of scores [n] if the power ratio compares them."""
    from capo.method.calibration import PowerRatio

    if not isinstance(comparison, PowerRatio) or not (scores < 0).any():
        return
    first = int((scores < 0).argmax())
    raise RewardError(
        f"reward {name!r}: score {scores[first]:g} of prompt {prompt_ids[first]}, sample "
        f"{samples[first]} is negative, but the power ratio needs scores of 0 or more; set "
        "`comparison: bradley-terry`, or rescale the scores"
    )
