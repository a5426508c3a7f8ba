import torch

from capo.cost.peak_memory import allocated_bytes, peak_bytes

CPU = torch.device("cpu")
MEGA = 1_000_000


def peak_above(work):
    """The peak of `work` above the tensors that exist already."""
    return peak_bytes(work, CPU) - peak_bytes(lambda: None, CPU)


def test_memory_freed_before_the_peak_does_not_count():
    def work():
        first = torch.zeros(MEGA)
        second = first + 1
        del first, second
        torch.ones(MEGA)

    assert peak_above(work) == 2 * 4 * MEGA


def test_a_view_takes_no_memory():
    def work():
        whole = torch.zeros(MEGA)
        return whole.view(1000, 1000)[1:], whole.t()

    assert peak_above(work) == 4 * MEGA


def test_existing_tensors_count():
    before = peak_bytes(lambda: None, CPU)
    kept = torch.zeros(MEGA)
    assert peak_bytes(lambda: None, CPU) - before == kept.nbytes


def test_activations_kept_for_the_backward_pass_count():
    values = torch.zeros(MEGA, requires_grad=True)

    def forward():
        result = values
        for _ in range(5):
            result = result.exp()  # its derivative needs each result
        return result

    def without():
        with torch.no_grad():
            forward()

    assert peak_above(lambda: forward()) == 5 * 4 * MEGA
    assert peak_above(without) == 2 * 4 * MEGA


def test_allocated_bytes_excludes_existing_tensors():
    kept = torch.zeros(MEGA)

    def work():
        view = kept.view(1000, 1000).t()
        return kept.add_(1), view + 1

    assert allocated_bytes(work, CPU) == 4 * MEGA
    assert allocated_bytes(work, torch.device("meta")) == 0
