"""Scales and ticks."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo.reporting.axes import WIDTH, Chart, scale_over

FINITE = st.floats(-1e9, 1e9, allow_nan=False)


@given(st.lists(FINITE, min_size=1, max_size=20), st.booleans())
def test_scale_covers_the_data_with_round_ticks(values: list[float], snug: bool) -> None:
    scale = scale_over(values, snug=snug)
    slack = 1e-6 * (scale.high - scale.low)
    assert scale.low - slack <= min(values) <= max(values) <= scale.high + slack
    assert 1 <= len(scale.ticks) <= 12
    assert len({scale.label(tick) for tick in scale.ticks}) == len(scale.ticks)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 250], ["0", "50", "100", "150", "200", "250"]),
        ([0, 10_000], ["0", "2,000", "4,000", "6,000", "8,000", "10,000"]),
        ([-0.13, 0.41], ["−0.2", "0.0", "0.2", "0.4", "0.6"]),
    ],
)
def test_labels(values: list[float], labels: list[str]) -> None:
    scale = scale_over(values)
    assert [scale.label(tick) for tick in scale.ticks] == labels


@pytest.mark.parametrize("high", [0.6, 80_000])
def test_the_last_label_is_within_the_chart(high: float) -> None:
    scale = scale_over([0, high])
    chart = Chart(scale, scale, "step", "rate")
    digit = 6.4  # units, in the font of the page
    assert chart.x_at(high) + digit * len(scale.label(high)) / 2 < WIDTH + digit / 2


def test_small_values_share_a_power_of_ten() -> None:
    scale = scale_over([0, 2.3e-4])
    assert [scale.label(tick) for tick in scale.ticks] == ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5"]
    assert scale.unit("drift") == "drift (×10⁻⁴)"


def test_percent() -> None:
    scale = scale_over([0.5, 0.62], percent=True)
    assert scale.label(0.6) == "60%"
    assert scale_over([0, 0.004], percent=True).label(0.001) == "0.1%"


def test_only_finite_values_count() -> None:
    scale = scale_over([math.nan, math.inf, 1.0, 3.0])
    assert (scale.low, scale.high) == (1.0, 3.0)


def test_labels_are_escaped() -> None:
    chart = Chart(scale_over([0, 1]), scale_over([0, 1]), "<x>", '"y"')
    svg = chart.svg('a "chart" <of>')
    assert "<x>" not in svg
    assert "&lt;x&gt;" in svg
    assert 'aria-label="a &#34;chart&#34; &lt;of&gt;"' in svg
