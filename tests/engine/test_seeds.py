import hashlib
import subprocess
import sys

import pytest
import torch

from capo.engine.seeds import initial_noise, sample_seed, stable_seed


def test_a_seed_comes_from_the_digest_of_its_key():
    digest = hashlib.blake2b(b'["sample",0,"ab",3]').digest()
    assert stable_seed("sample", 0, "ab", 3) == int.from_bytes(digest[:8], "big") % 2**63
    # The noise of all images depends on these numbers, so they must never change.
    assert stable_seed("sample", 0, "ab", 3) == 1633193329116828168
    assert sample_seed(5, "ab", 3) == stable_seed("sample", 5, "ab", 3)


def test_seeds_fit_63_bits_and_distinguish_types_and_boundaries():
    keys = [("a", "b"), ("ab",), ("a,b",), ('a","b',), (1,), ("1",), (), ("",), (1, 1), (11,)]
    seeds = [stable_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_lone_surrogates_have_a_seed_too():
    assert stable_seed("\ud800") != stable_seed("\ud801")


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_seeds_do_not_depend_on_the_process(hash_seed):
    command = "from capo.engine.seeds import stable_seed; print(stable_seed('sample', 7, 'é', 1))"
    printed = subprocess.run(
        [sys.executable, "-c", command],
        env={"PYTHONHASHSEED": hash_seed, "LC_ALL": "C", "TZ": "Asia/Kolkata"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert int(printed) == stable_seed("sample", 7, "é", 1)


def test_noise_depends_only_on_its_seed():
    first = initial_noise(5, (4, 8, 8))
    torch.manual_seed(123)
    torch.randn(10)
    before = torch.get_rng_state()
    assert torch.equal(initial_noise(5, (4, 8, 8)), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(initial_noise(6, (4, 8, 8)), first)
    assert first.dtype == torch.float32
    assert first.device.type == "cpu"


def test_noise_is_standard_normal():
    noise = initial_noise(0, (100_000,))
    # Standard errors are 0.003 and 0.002.
    assert abs(noise.mean()) < 0.015
    assert abs(noise.std() - 1) < 0.01
