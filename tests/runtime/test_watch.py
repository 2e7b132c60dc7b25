"""The connections by which ranks notice that another has ended; here both ends are threads of one process."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from torch.distributed import TCPStore

from scone_cli.runtime.torchrun import Launch
from scone_cli.runtime.watch import Watch


@pytest.fixture
def watches():
    """The watches of ranks 0, 1 and 2; a stranger has tried to connect first."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    made: dict[int, Watch] = {}

    def make(rank: int) -> None:
        own = TCPStore("127.0.0.1", store.port, wait_for_workers=False)
        made[rank] = Watch(Launch(rank, 3, rank, 3), own, "127.0.0.1")

    first = threading.Thread(target=make, args=(0,))
    first.start()
    port = int(store.get("scone/watch").decode().split()[0])
    stranger = socket.create_connection(("127.0.0.1", port))
    stranger.sendall(b"0123 1 elsewhere")
    assert stranger.recv(1) == b""
    stranger.close()
    for rank in (1, 2):
        make(rank)
    first.join(60)
    open_ones = [made[rank] for rank in range(3)]
    yield open_ones
    for watch in open_ones:
        watch.close(True)


def test_all_is_well(watches):
    for watch in watches:
        watch.check()


def test_a_rank_that_ends_is_named_to_all(watches):
    watches.pop(1).close(False)
    for watch in watches:
        assert watch.lost() == f"rank 1 on {socket.gethostname()}"
        with pytest.raises(RuntimeError, match=r"^rank 1 on "):
            watch.check()


def test_without_rank_0_the_others_end(watches):
    watches.pop(0).close(False)
    assert {watch.lost() for watch in watches} == {f"rank 0 on {socket.gethostname()}"}


def test_a_rank_that_leaves_in_order_is_not_lost(watches):
    watches.pop(1).close(True)
    watches.pop(0).close(True)
    time.sleep(0.05)
    watches[0].check()
    assert watches[0].lost() == ""
