"""Work on a real Ray cluster of two nodes on this machine."""

import os
import signal
import time
from functools import partial

import pytest

from capo import load_recipe, run
from capo.engine.launch import processes
from capo.engine.shard_work import ShardsFailed
from capo.recipe import EngineSection
from capo.store import Run
from squares import Squares

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

from capo.engine.ray_executor import RayExecutor  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def executor(cluster, tmp_path):
    engine = EngineSection(executor="ray", address=cluster.address, workers=2, device="cpu")
    executor = RayExecutor(engine, tmp_path / "logs")
    yield executor
    executor.close()


def squares(folder):
    return {int(path.name): path.read_text().split() for path in folder.iterdir() if path.name.isdigit()}


def test_shards_are_made_once_by_two_workers(executor, tmp_path):
    notes = []
    executor.run(
        Squares(tmp_path, 12, seconds=0.05, workers=2), range(12), lambda done: notes.append(done.note)
    )
    assert {shard: int(text[0]) for shard, text in squares(tmp_path).items()} == {n: n * n for n in range(12)}
    assert {len(text) for text in squares(tmp_path).values()} == {2}
    assert len({text[1] for text in squares(tmp_path).values()}) == 2
    assert sorted(note["square"] for note in notes) == [n * n for n in range(12)]


def test_the_shards_of_a_killed_worker_go_to_another(executor, tmp_path):
    executor.run(Squares(tmp_path, 10, deadly=frozenset({2, 5}), seconds=0.02), range(10))
    assert sorted(squares(tmp_path)) == list(range(10))
    assert {path.name for path in tmp_path.glob("killed-*")} == {"killed-2", "killed-5"}


def test_the_shards_of_a_worker_that_hangs_go_to_another(executor, tmp_path, monkeypatch):
    monkeypatch.setattr("capo.engine.ray_executor.SILENCE", 2.0)
    executor.run(Squares(tmp_path, 6, hanging=frozenset({1}), seconds=0.02), range(6))
    os.kill(int((tmp_path / "stopped").read_text()), signal.SIGKILL)
    assert sorted(squares(tmp_path)) == list(range(6))


def test_a_worker_that_dies_while_it_is_asked_for_its_memory_is_replaced(executor):
    first = executor.workers()[0]
    ray.get([worker.actor.is_alive.remote() for worker in executor.workers()])
    ray.kill(first.actor)
    assert executor.free_memory(EngineSection(device="cpu")) > 0


def test_a_poison_shard_is_named_and_all_others_are_made(executor, tmp_path):
    with pytest.raises(ShardsFailed) as failed:
        executor.run(Squares(tmp_path, 10, poison=frozenset({4})), range(10))
    assert sorted(squares(tmp_path)) == [n for n in range(10) if n != 4]
    (failure,) = failed.value.failures
    assert failure.shards == (4,)
    assert isinstance(failure.error, ValueError)
    logs = "".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert "Traceback" in logs
    assert "4 cannot be squared" in logs


def test_a_node_that_leaves_takes_no_shard_with_it(cluster, executor, tmp_path):
    node = cluster.add_node(num_cpus=1)
    removed = []

    def remove_node(done):
        if not removed:
            removed.append(node)
            cluster.remove_node(node)

    engine = EngineSection(executor="ray", address=cluster.address, workers=3, device="cpu")
    three = RayExecutor(engine, tmp_path / "logs")
    three.run(Squares(tmp_path, 15, seconds=0.1, workers=3), range(15), remove_node)
    three.close()
    assert sorted(squares(tmp_path)) == list(range(15))


def meet(folder, executor, held):
    """Write down who is there; the first time, one process dies before the others can meet it."""
    rank = processes().rank
    scar = folder / "killed-rank"
    if rank == 1 and not scar.exists():
        scar.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"rank-{rank}").write_text(str(executor.in_main(lambda: f"main of {processes().size}")))


def test_processes_that_train_together_start_again_when_one_is_lost(executor, tmp_path):
    assert executor.call_all(partial(meet, tmp_path), 4) is False
    assert (tmp_path / "killed-rank").exists()
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == ["main of 2"] * 2


def fail_alone(folder, executor, held):
    """Raise an error in one process while the other waits for it."""
    with (folder / f"starts-{processes().rank}").open("a") as starts:
        starts.write("x")
    if processes().rank == 1:
        raise ValueError("no such pair")
    time.sleep(120)


def test_the_error_of_one_process_ends_the_others_at_once(executor, tmp_path):
    with pytest.raises(RuntimeError, match=r"rank-1.log: ValueError: no such pair"):
        executor.call_all(partial(fail_alone, tmp_path), 2)
    assert (tmp_path / "starts-0").read_text() == "x"


def fail_after_a_loss(folder, executor, held):
    """Kill a process the first time, and report in the other one what follows from that."""
    first = not (folder / "killed-rank").exists()
    executor.in_main(lambda: None)
    if processes().rank == 1 and first:
        (folder / "killed-rank").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if first:
        raise RuntimeError("connection closed by peer")


def test_an_error_that_follows_from_a_loss_does_not_hide_it(executor, tmp_path):
    executor.call_all(partial(fail_after_a_loss, tmp_path), 2)
    assert (tmp_path / "killed-rank").exists()


def test_samples_and_scores_are_those_of_a_single_process(cluster, tmp_path):
    small = ["prompts.count=4", "generate.shard_prompts=2", "generate.samples_per_prompt=2"]
    small += ["generate.num_inference_steps=2", "train.global_batch_size=2", "train.per_device_batch_size=2"]
    on_ray = ["engine.executor=ray", f"engine.address={cluster.address}", "engine.workers=2"]
    for name, settings in (("local", small), ("ray", small + on_ray)):
        recipe = load_recipe("shapes", [*settings, "engine.device=cpu"])
        for stage in ("prompts", "generate", "score"):
            run(recipe, tmp_path / name, stage=stage)
    for artifact in ("samples", "scores/alignment", "scores/heldout"):
        local, ray_made = (Run(tmp_path / name).artifact(artifact) for name in ("local", "ray"))
        ray_made.verify()
        assert ray_made.digest == local.digest
