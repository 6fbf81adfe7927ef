"""What the trainer's side of a transfer says, against what vLLM's side reads; no GPU is needed."""

import dataclasses
import inspect
import threading
import weakref

import pytest
import torch

from exprl import config
from exprl.errors import EngineError
from exprl.rollout import senders
from exprl.rollout.transfer import buckets, start_thread

BUCKET = [("a", torch.zeros(2, 3, dtype=torch.bfloat16)), ("b", torch.zeros(4))]


@pytest.fixture
def nccl(monkeypatch):
    """The sender for GPUs, on a machine that says it has one once vLLM has looked."""
    pytest.importorskip("vllm.distributed.weight_transfer.nccl_engine")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return senders.open_sender("nccl", config.Engine())


def test_vllms_nccl_receiver_takes_what_the_sender_says(nccl):
    engine = pytest.importorskip("vllm.distributed.weight_transfer.nccl_engine")
    meeting = nccl.meet(["http://127.0.0.1:1", "http://127.0.0.1:2"], 3)
    info = engine.NCCLWeightTransferInitInfo(**meeting, rank_offset=2)
    assert (info.master_address, info.world_size, info.rank_offset) == ("127.0.0.1", 3, 2)
    assert info.packed
    update = engine.NCCLWeightTransferUpdateInfo(**nccl.prepare(BUCKET))
    assert dataclasses.asdict(update) == {
        "names": ["a", "b"],
        "dtype_names": ["bfloat16", "float32"],
        "shapes": [[2, 3], [4]],
    }


def test_both_sides_of_nccl_cut_a_bucket_alike(nccl, monkeypatch):
    """The sender calls vLLM's own functions, with arguments that they have."""
    common = pytest.importorskip("vllm.distributed.weight_transfer.nccl_common")
    from vllm.distributed.weight_transfer import packed_tensor

    calls = []
    real = packed_tensor.packed_nccl_broadcast_producer
    signature = inspect.signature(real)
    monkeypatch.setattr(common, "trainer_init", lambda info: calls.append(info) or "group")
    monkeypatch.setattr(
        packed_tensor,
        "packed_nccl_broadcast_producer",
        lambda **given: calls.append(signature.bind(**given).arguments),
    )
    monkeypatch.setattr(torch.cuda, "device", lambda index: torch.no_grad())
    meeting = nccl.meet(["http://127.0.0.1:1"], 2)
    nccl.join()
    nccl.prepare(BUCKET)
    nccl.send()
    endpoint, sent = calls
    assert endpoint.items() <= meeting.items()
    assert endpoint.keys() == {"master_address", "master_port", "world_size"}
    assert sent["group"] == "group" and [name for name, _ in sent["iterator"]] == ["a", "b"]
    assert sent["buffer_size_bytes"] == meeting["packed_buffer_size_bytes"]
    assert "num_buffers" not in sent  # both sides' default


def test_nccl_without_a_gpu_is_refused_with_the_other_ways():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match="has no GPU; set it to 'gloo', or to 'files'"):
        senders.open_sender("nccl", config.Engine())


def test_the_meeting_point_is_on_loopback_where_all_servers_are():
    assert senders.own_address(["http://127.0.0.1:1", "http://localhost:2"]) == "127.0.0.1"


def test_buckets_keep_the_order_and_a_large_tensor_has_one_of_its_own():
    weights = [(str(i), torch.zeros(n)) for i, n in enumerate((2, 2, 9, 1, 1, 1))]
    cut = list(buckets(weights, 16))
    assert [[name for name, _ in bucket] for bucket in cut] == [
        ["0", "1"],
        ["2"],
        ["3", "4", "5"],
    ]
    assert [pair for bucket in cut for pair in bucket] == weights
    assert list(buckets([], 16)) == []


def test_a_full_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    sender = senders.open_sender("files", config.Engine(transfer_dir=str(tmp_path / "file" / "x")))
    with pytest.raises(EngineError, match=r"name another folder in engine\.transfer_dir"):
        sender.prepare(BUCKET)


def test_a_thread_that_failed_holds_nothing_that_it_worked_with():
    """Else a group that broke would stay open, and its other members would wait."""
    groups = []

    def work():
        group = threading.Event()
        groups.append(weakref.ref(group))
        raise OSError("the network is gone")

    future = start_thread(work)
    assert str(future.exception()) == "the network is gone"
    assert groups[0]() is None
