import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small inputs gain nothing from threads, and where other processes hold the cores torch's
    wait for one another: fifty times as long was measured."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
