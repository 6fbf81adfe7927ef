"""The group over which a trainer on CPUs sends its weights to the servers' workers."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any

import torch

from exprl.serve.reach import is_loopback

PREFIX = "exprl-weights"
"""Of the keys by which the members of a group find each other in the store."""
dist: Any = torch.distributed  # whose stores and groups have no types


def open_store(address: str, timeout_s: float) -> Any:
    """Open the store in which the members of a group meet, on a free port (`.port`).

    Args:
        address: of this machine; the store listens there and on no other of its addresses.
    """
    with socket.create_server((address, 0)) as listener:
        port = listener.getsockname()[1]
        return dist.TCPStore(
            address,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=timeout_s),
            master_listen_fd=listener.detach(),
        )


def find_store(address: str, port: int, timeout_s: float) -> Any:
    """The store that the trainer opened.

    Raises:
        RuntimeError: it is not there within timeout_s.
    """
    timeout = timedelta(seconds=timeout_s)
    return dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timeout)


def join_gloo(store: Any, *, rank: int, world_size: int, timeout_s: float) -> Any:
    """Join the group, and wait for the other members; the trainer is rank 0.

    Raises:
        RuntimeError: not all are there within timeout_s.
    """
    options = dist.ProcessGroupGloo._Options()
    options._timeout = timedelta(seconds=timeout_s)
    if is_loopback(store.host):
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=store.host)]
    else:
        options._devices = [dist.ProcessGroupGloo.create_default_device()]
    return dist.ProcessGroupGloo(dist.PrefixStore(PREFIX, store), rank, world_size, options)


def broadcast(group: Any, tensor: torch.Tensor) -> None:
    """Send a contiguous tensor on the CPU from rank 0 to all others, which take it in place.

    Raises:
        RuntimeError: a member is gone, or did not come in time.
    """
    options = dist.BroadcastOptions()
    options.rootRank = 0
    options.rootTensor = 0
    group.broadcast([tensor], options).wait()
