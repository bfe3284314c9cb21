"""One local cluster of two worker processes for all tests that need one."""

import dask
import pytest

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="session")
def dask_client():
    # workers, also those that follow a killed one, are forks of a process with the imports
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        context = distributed.utils.get_mp_context()
        room = "sklearn_robust.distributed"
        context.set_forkserver_preload(["dask.dataframe", "distributed", f"{room}.robust_linear"])
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client
