"""The card of a model that a run trained: where it comes from, what was measured, what was not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from exprl import config
from exprl.evaluate.during_training import read_evaluations
from exprl.evaluate.estimates import wilson_interval
from exprl.evaluate.pass_at_k import Evaluation
from exprl.monitor.metrics_log import read_metrics
from exprl.run.recorded import recorded_config
from exprl.run.starts import find_version, read_first_step

SETTINGS = (
    *("method", "model.path", "train.steps", "rollout.problems_per_step", "rollout.group_size"),
    *("rollout.temperature", "rollout.max_response_tokens", "advantage.kind", "reward.steps"),
    *("judge.view", "judge.score_map", "loss.kl_coef", "optim.lr", "optim.mini_batches", "seed"),
)
"""Those that the card shows; the whole config lies beside it."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_card(repo_id: str, run_dir: Path, step: int, *, lora: bool) -> str:
    """README.md of the model of a checkpoint.

    Args:
        step: training steps behind the weights.
        lora: whether the adapter lies beside the merged weights, in adapter/.
    """
    from huggingface_hub import EvalResult, ModelCardData

    cfg = config.load(run_dir / "config.toml")
    base = find_base(cfg)
    measured = {e.step: e for e in read_evaluations(run_dir) if e.step in (0, step)}
    results = []
    if step in measured and (first := measured[step].to_json()["pass_at"].get("1")):
        name, value = describe_data(cfg), round(first["value"], 4)
        results = [EvalResult("text-generation", name, name, "pass@1", value)]
    about = ModelCardData(
        base_model=base,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["exprl", "reinforcement-learning", cfg.method],
        model_name=repo_id if results else None,
        eval_results=results or None,
    )
    parts = (
        f"---\n{about.to_yaml()}\n---\n\n# {repo_id.rpartition('/')[2]}",
        _origin(cfg, base, step),
        _usage(repo_id, lora),
        _results(cfg, measured, step),
        _training(cfg, run_dir, step),
        _limits(),
    )
    return "\n\n".join(parts) + "\n"


def public_config(cfg: config.Config) -> str:
    """The config as TOML, without what says where it ran: servers, folders of this machine."""
    tree = cfg.model_dump(mode="json", exclude_none=True)
    for section, key in (("judge", "endpoints"), ("engine", "urls"), ("cluster", "address")):
        tree[section].pop(key, None)
    return tomli_w.dumps(hide_folders(tree))


def hide_folders(value: Any) -> Any:
    """Absolute paths as their last names, wherever they stand."""
    if isinstance(value, dict):
        return {key: hide_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hide_folders(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~")) and value.count("/") > 1:
        return Path(value).name
    return value


def find_base(cfg: config.Config) -> str | None:
    """The model of the hub that training began with, through earlier runs; None for a folder."""
    for _ in range(10):  # Stage II of a Stage I, and so on; a circle ends
        path = Path(cfg.model.path)
        earlier = recorded_config(path.parent.parent) if path.parent.name == "checkpoints" else None
        if earlier is None:
            break
        cfg = earlier
    return _hub_id(cfg.model.path)


def describe_data(cfg: config.Config) -> str:
    """The held-out problems, by the names of their files or datasets."""
    return _names(cfg.eval.data) if cfg.eval.data else "none"


def is_hub_id(name: str) -> bool:
    """Whether it has the form OWNER/NAME."""
    return _HUB_ID.fullmatch(name) is not None


def _hub_id(path: str) -> str | None:
    return path if is_hub_id(path) and not Path(path).exists() else None


def _names(data: config.Data) -> str:
    return ", ".join(
        part.path if _hub_id(part.path) else Path(part.path).name for part in data.parts
    )


def _origin(cfg: config.Config, base: str | None, step: int) -> str:
    what = (
        f"`{base}`" if base else f"a model that is not on the hub (`{Path(cfg.model.path).name}`)"
    )
    text = (
        f"Trained from {what} for {step} steps with exprl {find_version('exprl') or ''}, method"
        f" `{cfg.method}`, on the problems of {_names(cfg.data)}."
    )
    if cfg.asks_judge:
        judge = cfg.judge.model or f"a rule (`{cfg.judge.rules}`), not a language model"
        text += (
            " The reward is dense: a judge compared what the model wrote with reference solutions"
            f" that the model never saw. The judge was {judge}."
        )
    return text


def _usage(repo_id: str, lora: bool) -> str:
    lines = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{repo_id}")',
        f'model = AutoModelForCausalLM.from_pretrained("{repo_id}")',
    )
    text = "## Use\n\n```python\n" + "\n".join(lines) + "\n```"
    if lora:
        text += (
            "\n\nThese are the merged weights. The LoRA adapter alone is in `adapter/`, for PEFT."
        )
    return text


def _results(cfg: config.Config, measured: Mapping[int, Evaluation], step: int) -> str:
    if step not in measured:
        return (
            "## Results\n\nNobody measured these weights: the run has no evaluation at step"
            f" {step}. Its rewards are grades, and say nothing certain about right answers."
        )
    now = measured[step]
    rates = {at: one.to_json()["pass_at"] for at, one in measured.items()}
    rows = [
        (f"pass@{k}", *(_rate(rates.get(at, {}).get(str(k))) for at in (0, step))) for k in now.ks
    ]
    table = _table(("", "before this run", f"after {step} steps"), rows)
    return (
        f"## Results\n\n{table}\n\n"
        f"{len(now.outcomes)} held-out problems of {describe_data(cfg)}, {now.samples} samples each"
        f" at temperature {now.temperature:g}; answers were found by the `{now.verify}` rule."
        " pass@k is the chance that one of k samples is right. In brackets stands a 95 % interval"
        " over problems: by bootstrap, or Wilson's where all problems came out alike."
        f"{_spoiled(now)} Whether the base model had seen the problems is not known."
    )


def _rate(point: Mapping[str, float] | None) -> str:
    if point is None:
        return "-"
    value, low, high, problems = (point[key] for key in ("value", "low", "high", "problems"))
    if low == high:  # resampling problems that are all alike would claim to know it exactly
        low, high = wilson_interval(round(value * problems), int(problems))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _spoiled(evaluation: Evaluation) -> str:
    lost = f" {evaluation.failed} samples failed and do not count." if evaluation.failed else ""
    cut = evaluation.overlong_rate
    return lost + (
        f" {cut:.1%} were cut by the length limit, and count as wrong." if cut > 0 else ""
    )


def _training(cfg: config.Config, run_dir: Path, step: int) -> str:
    last = read_first_step(run_dir) + step - 1
    rows = [row for row in read_metrics(run_dir) if row["step"] <= last]
    flat = config.flatten(cfg)
    settings = [(f"`{key}`", f"`{hide_folders(flat.get(key))}`") for key in SETTINGS]
    facts = [
        f"{_total(rows, 'rollout/count'):,.0f} rollouts of {_total(rows, 'rollout/tokens'):,.0f}"
        " tokens",
        f"{_total(rows, 'judge/requests'):,.0f} requests to the judge",
        f"{_total(rows, 'judge/missing'):,.0f} rollouts left out for lack of a grade",
    ]
    alarms = sorted(
        {
            name.removeprefix("alarm/")
            for row in rows
            for name, value in row.items()
            if name.startswith("alarm/") and value
        }
    )
    raised = ", ".join(f"`{name}`" for name in alarms) or "none"
    return (
        "## Training\n\n![Curves of the whole run](curves.png)\n\n"
        f"{'; '.join(facts)}. Alarms that the run raised: {raised}.\n\n"
        f"{_table(('setting', 'value'), settings)}\n\n"
        "The whole config, the metrics of every step and the evaluations are in `exprl/`."
    )


def _limits() -> str:
    return (
        "## Licence and limits\n\nThis card states no licence. The weights derive from the base"
        " model and from the data, which have licences of their own: whoever publishes them says"
        " which one holds. Reinforcement learning on problems with known answers changes what a"
        " model says elsewhere, too; nothing beyond the numbers above was measured."
    )


def _total(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(row.get(name) or 0.0 for row in rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
