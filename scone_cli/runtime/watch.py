"""Notice soon that another process of a run has ended, on whichever machine.

torchrun ends the processes of its own machine when one of them ends; those of other machines may wait for an hour in a
transfer, or for ever for a value. So every rank keeps a connection to rank 0 open. The system closes it when its process
ends, however it ends. If a whole machine vanishes nothing is closed, but the system's keepalive gives up after `KEEPALIVE`.
Nothing is sent over the connections while all is well.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import selectors
import signal
import socket
import sys
import time

from torch.distributed import Store  # type: ignore[attr-defined] # public, but for mypy

from scone_cli.runtime.torchrun import Launch

KEEPALIVE = 90  # seconds until a machine that vanished is noticed: idle for 30, then 4 probes, 15 apart
_PATIENCE = 300.0  # seconds for all ranks to connect: they have met in torch's rendezvous before
_LEFT = b"."  # said by a rank that leaves in order
_ADDRESS = "scone/watch"


class Watch:
    """The connections of this rank: rank 0 has one to every other rank, the others have one to rank 0."""

    def __init__(self, launch: Launch, store: Store, master: str) -> None:
        """Connect; `master` is the name or address of rank 0's machine.

        Raises:
            RuntimeError, OSError: a rank did not come, or cannot reach rank 0.
        """
        self._lost = ""
        self._selector = selectors.DefaultSelector()
        if launch.rank == 0:
            self._accept(launch, store)
        else:
            self._connect(launch, store, master)

    def check(self) -> None:
        """Raises RuntimeError if a rank has ended; its text says which one, on which machine."""
        for key, _ in [] if self._lost else self._selector.select(0):
            assert isinstance(key.fileobj, socket.socket)
            try:
                said = key.fileobj.recv(400)
            except OSError:  # reset, or given up by the keepalive
                said = b""
            self._selector.unregister(key.fileobj)
            key.fileobj.close()
            if not said.startswith(_LEFT):
                self._lost = said.decode(errors="replace") or key.data
                self._tell(self._lost.encode())  # the others know only rank 0
                break
        if self._lost:
            raise RuntimeError(self._lost)

    def lost(self) -> str:
        """Which rank has ended, if it is known within a second; a broken transfer may be noticed before the connection."""
        deadline = time.monotonic() + 1
        while not self._lost and time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError):
                self.check()
            time.sleep(0.01)
        return self._lost

    def close(self, in_order: bool) -> None:
        """Close all connections; without `in_order` the others take it for the end of this rank."""
        if in_order:
            self._tell(_LEFT)
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            self._selector.unregister(key.fileobj)
            key.fileobj.close()
        self._selector.close()

    def _tell(self, said: bytes) -> None:
        for key in self._selector.get_map().values():
            assert isinstance(key.fileobj, socket.socket)
            with contextlib.suppress(OSError):
                key.fileobj.send(said)

    def _accept(self, launch: Launch, store: Store) -> None:
        """Accept a connection of every other rank; strangers, who do not know the secret, are sent away."""
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        secret = secrets.token_hex(16)
        both = family == socket.AF_INET6
        with socket.create_server(("", 0), family=family, backlog=launch.size, dualstack_ipv6=both) as server:
            server.settimeout(_PATIENCE)
            store.set(_ADDRESS, f"{server.getsockname()[1]} {secret} {socket.gethostname()}")
            waiting = launch.size - 1
            while waiting:
                connection, _ = server.accept()
                connection.settimeout(5)
                try:
                    given, rank, host = connection.recv(400).decode().split(" ")
                except (OSError, ValueError):
                    given = rank = host = ""
                if not secrets.compare_digest(given, secret):
                    connection.close()
                    continue
                self._keep(connection, f"rank {rank} on {host}")
                waiting -= 1

    def _connect(self, launch: Launch, store: Store, master: str) -> None:
        port, secret, host = store.get(_ADDRESS).decode().split(" ")
        connection = socket.create_connection((master, int(port)), timeout=_PATIENCE)
        connection.sendall(f"{secret} {launch.rank} {socket.gethostname()}".encode())
        self._keep(connection, f"rank 0 on {host}")

    def _keep(self, connection: socket.socket, name: str) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, option):  # macOS names them otherwise
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, name)


def end_with_torchrun() -> None:
    """Let the system send SIGTERM to this process when torchrun, which started it, has ended, however it ended.

    Otherwise training would go on with nobody watching, and hold the lock of the workspace. Linux only.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
