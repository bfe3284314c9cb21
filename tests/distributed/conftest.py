"""One local cluster of two worker processes for all tests that need one."""

import pytest

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="session")
def dask_client():
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    )
    client = distributed.Client(cluster)
    yield client
    client.close()
    cluster.close()
