"""The pairs as flat arrays, and statistics checked by hand."""

import json

import numpy as np
import pyarrow as pa
import pytest

from capo.pairing.pair_table import PairTable, delta_rewards

ROWS = [
    {
        "prompt_id": "a",
        "chosen": [2],
        "rejected": [0],
        "calibrated": [[0.2, 0.4], None, [0.8, 0.6]],
        "combined": [0.3, None, 0.7],
    },
    {
        "prompt_id": "b",
        "chosen": [],
        "rejected": [],
        "calibrated": [None, None, None],
        "combined": [None] * 3,
    },
    {
        "prompt_id": "c",
        "chosen": [0, 1],
        "rejected": [2],
        "calibrated": [[0.9, 0.3], [0.3, 0.9], [0.3, 0.3]],
        "combined": [0.6, 0.6, 0.3],
    },
]


@pytest.fixture
def pairs() -> PairTable:
    schema = pa.schema(
        {
            "prompt_id": pa.string(),
            "chosen": pa.list_(pa.int32()),
            "rejected": pa.list_(pa.int32()),
            "calibrated": pa.list_(pa.list_(pa.float64())),
            "combined": pa.list_(pa.float64()),
        }
    )
    return PairTable.from_arrow(pa.Table.from_pylist(ROWS, schema=described(schema, "x", "y")))


def described(schema: pa.Schema, *rewards: str) -> pa.Schema:
    return schema.with_metadata({"rewards": json.dumps(rewards), "comparisons": "{}"})


def test_flattened(pairs: PairTable) -> None:
    assert pairs.prompt.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert pairs.sample.tolist() == [0, 1, 2] * 3
    assert pairs.chosen.nonzero()[0].tolist() == [2, 6, 7]
    assert pairs.rejected.nonzero()[0].tolist() == [0, 8]
    assert np.isnan(pairs.combined).nonzero()[0].tolist() == [1, 3, 4, 5]
    assert pairs.calibrated[2].tolist() == [0.8, 0.6]
    assert pairs.rows("c").tolist() == [6, 7, 8]


def test_statistics(pairs: PairTable) -> None:
    """ΔR: 0.7 − 0.3 of `a`; 0.6 − 0.3 twice of `c`."""
    assert pairs.paired == ("a", "c")
    np.testing.assert_allclose(pairs.delta_rewards, [0.4, 0.3, 0.3])
    np.testing.assert_allclose(
        pairs.spread, [np.std([0.2, 0.8, 0.9, 0.3, 0.3]), np.std([0.4, 0.6, 0.3, 0.9, 0.3])]
    )


def test_correlation() -> None:
    """Deviations from one half (0.3, −0.3) and (0.1, −0.1) correlate fully; a constant has no correlation."""
    table = pa.table(
        {
            "prompt_id": ["a"],
            "chosen": [[0]],
            "rejected": [[1]],
            "calibrated": [[[0.8, 0.6, 0.5], [0.2, 0.4, 0.5]]],
            "combined": [[0.7, 0.3]],
        }
    )
    table = table.cast(described(table.schema, "x", "y", "z"))
    correlation = PairTable.from_arrow(table).correlation
    np.testing.assert_allclose(correlation[:2, :2], 1.0)
    assert np.isnan(correlation[2]).all()


def test_delta_rewards_pair_within_prompts_only() -> None:
    """Agrees with plain loops for prompts with different numbers of samples, including empty sets."""
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(12), rng.integers(0, 6, 12))
    combined, sets = rng.random(len(prompt)), rng.integers(0, 3, len(prompt))
    expected = [
        combined[a] - combined[b]
        for a in np.flatnonzero(sets == 1)
        for b in np.flatnonzero(sets == 2)
        if prompt[a] == prompt[b]
    ]
    assert len(expected) > 5
    assert delta_rewards(prompt, combined, sets == 1, sets == 2).tolist() == expected
