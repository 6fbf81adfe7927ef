"""Three ways of a bucket of weights to the servers: nccl, gloo, and files.

The trainer is rank 0 of a group with every worker of every server. A collective waits for all of
them, perhaps for ever: it runs on a daemon thread, beside the HTTP calls that have the workers take
part, and `close` breaks it off.
"""

from __future__ import annotations

import os
import socket
import tempfile
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from exprl import config
from exprl.errors import EngineError
from exprl.serve import gloo

Kind = Literal["nccl", "gloo", "files"]
Bucket = Sequence[tuple[str, Tensor]]

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "exprl-weights-"
"""Of the files of weights; host and process id of the trainer follow."""
NCCL_BUFFER_BYTES = 2**30


class Sender(Protocol):
    """The trainer's side of a transfer."""

    def meet(self, urls: Sequence[str], world_size: int) -> dict[str, Any] | None:
        """Open a meeting point for a new group.

        Returns:
            What each server's init call says, but for its rank_offset; None = there is no group.
        """
        ...

    def join(self) -> None:
        """Wait for all members; on a thread of its own."""
        ...

    def prepare(self, bucket: Bucket) -> dict[str, Any]:
        """Make a bucket ready, in the trainer's thread, and say what the update call says."""
        ...

    def send(self) -> None:
        """Send the bucket that is ready; on a thread of its own."""
        ...

    def finish(self) -> None:
        """Every server has the whole update, or the update failed."""
        ...

    def close(self) -> None:
        """Leave the group, and break off what still waits for it."""
        ...


def open_sender(kind: Kind, engine: config.Engine) -> Sender:
    """The sender of this kind.

    Raises:
        EngineError: nccl without a GPU.
    """
    match kind:
        case "files":
            return FilesSender(Path(engine.transfer_dir) if engine.transfer_dir else SHARED_MEMORY)
        case "gloo":
            # Less than an update has: who waits for a member that hangs can take part in the next
            # attempt.
            return GlooSender(engine.sync_timeout_s / 2)
        case "nccl":
            return NcclSender()


def describe(bucket: Bucket) -> dict[str, Any]:
    """Names, dtypes and shapes, as vLLM's update calls have them."""
    return {
        "names": [name for name, _ in bucket],
        "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in bucket],
        "shapes": [list(tensor.shape) for _, tensor in bucket],
    }


class FilesSender:
    """Writes each bucket to a safetensors file in a folder that all servers see."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[Path] = []
        self._prefix = f"{PREFIX}{socket.gethostname()}-"
        self._sweep()

    def _sweep(self) -> None:
        """Delete what processes of this machine left that were killed while they sent."""
        for path in self._folder.glob(f"{self._prefix}*-*.safetensors"):
            pid = path.name.removeprefix(self._prefix).partition("-")[0]
            if pid.isdigit() and not Path("/proc", pid).exists():
                path.unlink(missing_ok=True)

    def meet(self, urls: Sequence[str], world_size: int) -> None:
        """Files need no group."""

    def join(self) -> None:
        """Files need no group."""

    def prepare(self, bucket: Bucket) -> dict[str, Any]:
        """See Sender.prepare.

        Raises:
            EngineError: the folder cannot be written, or is full.
        """
        from safetensors.torch import save_file

        # A file holds no two tensors of one storage, and a tied head is such a pair.
        tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in bucket}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(
                ".safetensors", f"{self._prefix}{os.getpid()}-", self._folder
            )
            os.close(handle)
            path = Path(name)
            self._files.append(path)
            save_file(tensors, path)
        except Exception as error:  # safetensors has its own for a full disk
            raise EngineError(
                f"the weights could not be written to {str(self._folder)!r}: {error}; make room,"
                " or name another folder in engine.transfer_dir"
            ) from error
        return {"path": str(path)}

    def send(self) -> None:
        """The servers read the file."""

    def finish(self) -> None:
        """Delete the files: until now a server may have held parts of a layer in them."""
        while self._files:
            self._files.pop().unlink(missing_ok=True)

    def close(self) -> None:
        """See Sender.close."""
        self.finish()


class GlooSender:
    """Broadcasts tensor by tensor between CPUs."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._bucket: list[Tensor] = []
        self._store: Any = None
        self._world_size = 0
        self._group: Any = None

    def meet(self, urls: Sequence[str], world_size: int) -> dict[str, Any]:
        """See Sender.meet."""
        self._store = gloo.open_store(own_address(urls), self._timeout_s)
        self._world_size = world_size
        return {
            "master_address": self._store.host,
            "master_port": self._store.port,
            "world_size": world_size,
            "timeout_s": self._timeout_s,
        }

    def join(self) -> None:
        """See Sender.join."""
        store, size = self._store, self._world_size
        group = gloo.join_gloo(store, rank=0, world_size=size, timeout_s=self._timeout_s)
        if store is self._store:  # else the trainer has given this group up
            self._group = group

    def prepare(self, bucket: Bucket) -> dict[str, Any]:
        """See Sender.prepare."""
        self._bucket = [tensor.detach().cpu().contiguous() for _, tensor in bucket]
        return describe(bucket)

    def send(self) -> None:
        """See Sender.send."""
        bucket, group = self._bucket, self._group
        for tensor in bucket:
            gloo.broadcast(group, tensor)

    def finish(self) -> None:
        """See Sender.finish."""
        self._bucket = []

    def close(self) -> None:
        """See Sender.close. The others notice once nothing here holds the group."""
        self._bucket = []
        self._store = None
        group, self._group = self._group, None
        if group is not None:
            group.abort()  # ends a `send` that still waits


class NcclSender:
    """Broadcasts packed buckets between GPUs to vLLM's own receiver.

    Never run yet: that needs two GPUs.
    """

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise EngineError(
                "engine.transfer = 'nccl' sends weights from GPU to GPU, and the trainer has no"
                " GPU; set it to 'gloo', or to 'files' with a folder that all machines see, here"
                " and where the servers are started"
            )
        self._device = torch.cuda.current_device()
        self._bucket: list[tuple[str, Tensor]] = []
        self._group: Any = None
        self._meeting: dict[str, Any] = {}

    def meet(self, urls: Sequence[str], world_size: int) -> dict[str, Any]:
        """See Sender.meet."""
        address = own_address(urls)
        self._meeting = {
            "master_address": address,
            "master_port": free_port(address),
            "world_size": world_size,
        }
        return self._meeting | {"packed": True, "packed_buffer_size_bytes": NCCL_BUFFER_BYTES}

    def join(self) -> None:
        """See Sender.join."""
        from vllm.distributed.weight_transfer.nccl_common import trainer_init

        meeting = self._meeting
        with torch.cuda.device(self._device):
            group = trainer_init(meeting)
        if meeting is self._meeting:  # else the trainer has given this group up
            self._group = group

    def prepare(self, bucket: Bucket) -> dict[str, Any]:
        """See Sender.prepare.

        The tensors may have been gathered from other ranks, on the default stream. They are
        finished before another stream reads them.
        """
        self._bucket = [(name, tensor.detach().contiguous()) for name, tensor in bucket]
        torch.cuda.synchronize(self._device)
        return describe(bucket)

    def send(self) -> None:
        """See Sender.send."""
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        with torch.cuda.device(self._device):
            packed_nccl_broadcast_producer(
                iterator=iter(self._bucket),
                group=self._group,
                src=0,
                post_iter_func=lambda item: item[1],
                buffer_size_bytes=NCCL_BUFFER_BYTES,
            )

    def finish(self) -> None:
        """See Sender.finish."""
        self._bucket = []

    def close(self) -> None:
        """See Sender.close."""
        self._bucket = []
        self._meeting = {}
        group, self._group = self._group, None
        if group is not None:
            group.destroy()


def own_address(urls: Sequence[str]) -> str:
    """The address under which the servers reach this machine: loopback where all are on it."""
    hosts = [urllib.parse.urlsplit(url).hostname or "" for url in urls]
    addresses = [_address_toward(host) for host in hosts]
    return next((a for a in addresses if not a.startswith("127.")), "127.0.0.1")


def _address_toward(host: str) -> str:
    """Of the interface that leads to the host; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])


def free_port(address: str) -> int:
    """A port of this address that nobody listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
