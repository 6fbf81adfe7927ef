"""The flags and the environment of vLLM's server."""

import pytest

from exprl import config
from exprl.config.scale import SET_BY_EXPRL, SET_FOR_JUDGE
from exprl.errors import ConfigError
from exprl.serve import flags
from exprl.serve.flags import choose_transfer, judge_server, policy_server, to_argv
from exprl.serve.start import environment


@pytest.fixture(params=[True, False], ids=["cpu", "gpu"])
def cpu(request, monkeypatch):
    monkeypatch.setattr(flags, "runs_on_cpu", lambda: request.param)
    return request.param


def policy(**engine):
    rollout = config.Rollout(max_prompt_tokens=32, max_response_tokens=96, max_num_seqs=64)
    model = config.Model(path="m", dtype="float32")
    return policy_server(model, rollout, config.Engine(**engine), weights="w", threads=1)


def test_a_policy_server_has_the_lengths_and_the_numerics_of_the_config(cpu):
    found = policy(gpus_each=2).flags
    assert (found["model"], found["dtype"], found["max-model-len"]) == ("w", "float32", 128)
    assert (found["max-num-seqs"], found["tensor-parallel-size"], found["seed"]) == (64, 2, 0)
    assert found["logprobs-mode"] == "processed_logprobs"
    assert found["generation-config"] == "vllm"


def test_a_policy_server_takes_tokens_and_new_weights_and_a_judge_takes_neither(cpu):
    ours, judges = policy(), judge_server("w", name="judge")
    assert ours.flags["tokens-only"] is True and ours.fixed["VLLM_SERVER_DEV_MODE"] == "1"
    assert {"tokens-only", "weight-transfer-config", "worker-extension-cls"}.isdisjoint(
        judges.flags
    )
    assert judges.fixed["VLLM_SERVER_DEV_MODE"] == "0"
    assert judges.flags["served-model-name"] == "judge"


def test_a_prompt_is_computed_in_one_step_on_a_cpu_alone(cpu):
    found = policy().flags
    assert found["enforce-eager"] is cpu
    assert (found.get("enable-chunked-prefill") is False) == cpu


def test_weights_go_over_nccl_between_gpus_and_over_gloo_between_cpus(cpu):
    backend = policy().flags["weight-transfer-config"]["backend"]
    assert backend == ("gloo" if cpu else "nccl")
    assert choose_transfer(config.Engine(transfer="files"), cpu=cpu) == "files"


def test_further_flags_reach_vllm_as_it_writes_them(cpu):
    args = {"kv_cache_dtype": "fp8", "enable_prefix_caching": False, "hf_overrides": {"a": 1}}
    words = to_argv(policy(args=args).flags)
    assert words[:2] == ["--kv-cache-dtype", "fp8"]
    assert words[2:5] == ["--no-enable-prefix-caching", "--hf-overrides", '{"a": 1}']
    assert to_argv({"cudagraph-capture-sizes": [1, 2]}) == ["--cudagraph-capture-sizes", "1", "2"]


@pytest.mark.parametrize("name", ["max_model_len", "max-model-len", "no_trust_remote_code", "host"])
def test_a_flag_that_exprl_sets_is_refused_with_the_setting_that_decides_it(name):
    with pytest.raises(ValueError, match=f"{name} is a flag of vLLM that exprl sets itself; it"):
        config.Engine(args={name: 1})


def test_a_flag_with_dashes_in_front_is_refused():
    with pytest.raises(ValueError, match="'--kv-cache-dtype' is no flag"):
        config.Engine(args={"--kv-cache-dtype": "fp8"})


def test_every_flag_that_a_policy_server_sets_on_a_gpu_is_refused_in_engine_args(monkeypatch):
    monkeypatch.setattr(flags, "runs_on_cpu", lambda: False)
    set_here = {name.replace("-", "_") for name in policy().flags}
    assert set_here <= SET_BY_EXPRL.keys()


def test_every_flag_that_a_judge_server_sets_on_a_gpu_is_refused_in_its_args(monkeypatch):
    monkeypatch.setattr(flags, "runs_on_cpu", lambda: False)
    set_here = {name.replace("-", "_") for name in flags.judge_server("m", name="m").flags}
    assert set_here <= SET_FOR_JUDGE.keys()
    with pytest.raises(ValueError, match=r"it follows from judge\.serve\.gpus_each"):
        config.JudgeServe(model="m", args={"tensor-parallel-size": 2})
    assert config.JudgeServe(model="m", args={"max-model-len": 8192}).args


def test_what_exprl_sets_on_a_cpu_alone_is_refused_there(cpu):
    if not cpu:
        policy(args={"enable_chunked_prefill": True})
        return
    with pytest.raises(ConfigError, match=r"engine\.args\.enable_chunked_prefill: on a CPU"):
        policy(args={"enable_chunked_prefill": True})


def test_the_users_environment_wins_but_for_what_must_be(cpu):
    server = policy()
    users = {
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_SERVER_DEV_MODE": "0",
        "VLLM_API_KEY": "other",
        "HOME": "/h",
    }
    found = environment(server, "127.0.0.1", users)
    assert (found["VLLM_LOGGING_LEVEL"], found["HOME"]) == ("INFO", "/h")
    assert found["VLLM_SERVER_DEV_MODE"] == "1"
    assert "VLLM_API_KEY" not in found
    assert ("OMP_NUM_THREADS" in found) == cpu
    assert found["GLOO_SOCKET_IFNAME"] == "lo"
    assert "GLOO_SOCKET_IFNAME" not in environment(server, "10.0.0.7", users)
