"""A sweep on a real Ray cluster of two nodes, one of which goes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer_small.engines.choice import EngineChoice
from trainer_small.engines.engine import Resources
from trainer_small.engines.sweep_run import SweepProgress, run_sweep
from trainer_small.sweeps.sweep_status import sweep_table

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'moe-scaling[ray]'")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def test_a_node_goes_and_the_table_is_that_of_a_quiet_sweep(
    cluster: Any, sweep_file: Callable[..., Path], tmp_path: Path
) -> None:
    file = sweep_file(4, training={"tokens": 128 * 500}, checkpoint_seconds=0.5)
    quiet, out = tmp_path / "quiet", tmp_path / "runs"
    run_sweep(file, quiet)
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    lost: list[str] = []
    gone = False

    def hear(at: SweepProgress) -> None:
        nonlocal gone
        assert at.event is not None
        if at.event.status == "lost":
            lost.append(at.event.run_id)
        if not gone and len(at.running) == 2:  # both nodes are at work
            cluster.remove_node(node, allow_graceful=False)
            gone = True

    choice = EngineChoice(name="ray", resources=Resources(gpus=0), address=cluster.address)
    status = run_sweep(file, out, engine=choice, progress=hear)
    assert status.complete and gone and lost
    timing = ["wall_seconds", "tokens_per_second"]
    first, second = (sweep_table(each).drop(columns=timing) for each in (quiet, out))
    assert first.equals(second)
