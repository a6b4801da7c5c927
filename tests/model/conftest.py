import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Run torch on one thread.

    Small inputs gain nothing from threads, and threads that wait for cores that other processes use
    took fifty times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
