"""Weights reach a vLLM worker over gloo and in files as they were sent, the head with them."""

import threading

import numpy as np
import pytest
import torch

from exprl.serve import gloo

pytestmark = pytest.mark.engine

PROMPT = [1, *(4 + 7 * i % 18 for i in range(40))]
WAIT_S = 60.0


@pytest.fixture(scope="module")
def engine():
    """vLLM in this process, with the policy of the miniature."""
    vllm_engine = pytest.importorskip("exprl.rollout.vllm_engine")
    from exprl import config
    from exprl.data.tokenizer import load_tokenizer

    model = config.Model(path="examples/division/base", dtype="float32")
    rollout = config.Rollout(max_prompt_tokens=32, max_response_tokens=96, max_num_seqs=8)
    started = vllm_engine.VllmEngine(
        model, rollout, tokenizer=load_tokenizer(model), weights=model.path
    )
    yield started
    started.close()


def make_weights(seed):
    """Those of a policy that never was, by the names of a state dict; and what it says."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("examples/division/base", dtype=torch.float32)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.01)
        logits = model(torch.tensor([PROMPT])).logits[0]
    logp = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(PROMPT[1:])[:, None])[:, 0]
    return {name: t.contiguous() for name, t in model.state_dict().items()}, logp.numpy()


def worker_of(engine):
    """What vLLM gives a transfer engine: the worker's own config, device and model."""
    (worker,) = engine._core._llm.collective_rpc(lambda worker: worker)
    return worker


def transfer_of(engine, cls):
    worker = worker_of(engine)
    return cls(None, worker.vllm_config, worker.device, worker.model_runner.get_model())


def gap(engine, expected):
    engine._core._llm.reset_prefix_cache()
    (found,) = engine.logp(np.array(PROMPT, dtype=np.int32))
    return np.abs(found - expected).max()


def update(engine, transfer, info):
    from vllm.config import set_current_vllm_config

    with set_current_vllm_config(worker_of(engine).vllm_config):
        transfer.start_weight_update()
        transfer.update_weights(info)
        transfer.finish_weight_update()


def test_weights_in_a_file_arrive(engine, tmp_path):
    from safetensors.torch import save_file

    from exprl.serve.worker import FilesTransfer

    state, expected = make_weights(seed=1)
    save_file({name: t.clone() for name, t in state.items()}, tmp_path / "w")
    assert gap(engine, expected) > 0.01
    update(engine, transfer_of(engine, FilesTransfer), {"path": str(tmp_path / "w")})
    assert gap(engine, expected) < 1e-4


def test_weights_over_gloo_arrive(engine):
    from exprl.serve.worker import GlooTransfer

    state, expected = make_weights(seed=2)
    store = gloo.open_store("127.0.0.1", WAIT_S)

    def send():
        group = gloo.join_gloo(store, rank=0, world_size=2, timeout_s=WAIT_S)
        for tensor in state.values():
            gloo.broadcast(group, tensor)
        gloo.broadcast(group, torch.zeros(1))  # holds the group until the worker has all

    assert gap(engine, expected) > 0.01
    trainer = threading.Thread(target=send)
    trainer.start()
    transfer = transfer_of(engine, GlooTransfer)
    place = {"master_address": "127.0.0.1", "master_port": store.port, "rank_offset": 1}
    transfer.init_transfer_engine(
        transfer.parse_init_info(place | {"world_size": 2, "timeout_s": WAIT_S})
    )
    update(
        engine,
        transfer,
        {
            "names": list(state),
            "dtype_names": ["float32"] * len(state),
            "shapes": [list(t.shape) for t in state.values()],
        },
    )
    gloo.broadcast(transfer._group, torch.zeros(1))
    trainer.join()
    assert gap(engine, expected) < 1e-4


def test_a_worker_without_a_group_says_so(engine):
    from exprl.serve.worker import GlooTransfer

    transfer = transfer_of(engine, GlooTransfer)
    with pytest.raises(RuntimeError, match="init_weight_transfer_engine must be called first"):
        transfer.update_weights({"names": [], "dtype_names": [], "shapes": []})


def test_a_group_whose_members_do_not_come_is_an_error():
    store = gloo.open_store("127.0.0.1", 1.0)
    with pytest.raises(RuntimeError):
        gloo.join_gloo(store, rank=0, world_size=2, timeout_s=0.5)


def test_the_store_of_a_group_listens_on_its_address_alone():
    import psutil

    store = gloo.open_store("127.0.0.1", 1.0)
    listening = [
        one.laddr.ip
        for one in psutil.Process().net_connections("inet")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == store.port
    ]
    assert listening == ["127.0.0.1"]
