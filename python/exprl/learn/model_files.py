"""Whether the files of a model hold what its config promises: found before a run, without a GPU.

Names and shapes come from the headers of safetensors files; values are read where that is cheap.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from exprl import config
from exprl.data.hub import cached_folder
from exprl.errors import ConfigError
from exprl.learn.model import find_faults, find_nonfinite, quiet_loading, read_config

READ_VALUES_UP_TO = 2 << 30
"""Bytes of weights that are looked through for NaN before a run: a second or two. The trainer looks
through those of every model when it has loaded them."""


def check_model(model: config.Model, rollout: config.Rollout, tokenizer: Any) -> str:
    """Refuse a model that would fail later; says in a few words what was looked at.

    Raises:
        ConfigError: it is no causal language model, it has fewer positions than a rollout may have
            tokens or fewer rows than the tokenizer has ids, or its files are damaged, lack a
            tensor, or hold one of another shape or with values that are not finite.
    """
    shape = read_config(model)
    _check_kind(model, shape)
    text = shape.get_text_config()
    _check_positions(model, rollout, text)
    _check_rows(model, text, tokenizer)
    folder = cached_folder(model.path)
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if not files:
        return "not here yet: files not looked at"
    _check_tensors(model, files)
    size = sum(file.stat().st_size for file in files)
    if size > READ_VALUES_UP_TO:
        return f"all tensors there; {size / (1 << 30):.1f} GiB of values not looked at"
    for file in files:
        _check_values(file)
    return "all tensors there, all values finite"


def _check_kind(model: config.Model, shape: Any) -> None:
    """A model of another kind is loaded all the same, and attends to what it should predict."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = set()
    for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        causal |= {names} if isinstance(names, str) else set(names)
    named = shape.architectures or []
    own_code = model.trust_remote_code and getattr(shape, "auto_map", None)
    if named and not own_code and not causal & set(named):
        raise ConfigError(
            f"model.path = {model.path!r}: config.json says architectures = {named}, which is no"
            " causal language model; name a model that writes text from left to right"
        )


def _check_positions(model: config.Model, rollout: config.Rollout, text: Any) -> None:
    positions = getattr(text, "max_position_embeddings", None)
    if positions is None:
        return
    rope = getattr(text, "rope_parameters", None) or {}
    trained, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
    if trained and factor:  # stretched, as by YaRN
        positions = max(positions, int(trained * factor))
    longest = rollout.max_prompt_tokens + rollout.max_response_tokens
    if longest > positions:
        raise ConfigError(
            f"rollout.max_prompt_tokens = {rollout.max_prompt_tokens} and"
            f" rollout.max_response_tokens = {rollout.max_response_tokens} make {longest} tokens,"
            f" but config.json of {model.path!r} says max_position_embeddings = {positions}; lower"
            " one of the two"
        )


def _check_rows(model: config.Model, text: Any, tokenizer: Any) -> None:
    """Padding alone may have no row: nothing is ever padded with it."""
    ids = {i: token for token, i in tokenizer.get_vocab().items() if i != tokenizer.pad_token_id}
    last = max(ids)
    if last >= text.vocab_size:
        raise ConfigError(
            f"model.path = {model.path!r}: the tokenizer has token {ids[last]!r} with id {last},"
            f" but config.json says vocab_size = {text.vocab_size}; the tokenizer is another"
            " model's, or the embedding was not resized"
        )


def _check_tensors(model: config.Model, files: list[Path]) -> None:
    """Names and shapes, as transformers itself would load them, on the meta device."""
    from transformers import AutoModelForCausalLM

    for file in files:
        _open(file)
    try:
        with quiet_loading():
            _, report = AutoModelForCausalLM.from_pretrained(
                model.path,
                device_map="meta",
                trust_remote_code=model.trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"model.path = {model.path!r} cannot be loaded: {error}") from error
    if fault := find_faults(report):
        raise ConfigError(f"model.path = {model.path!r}: {fault}")


def _check_values(file: Path) -> None:
    with _open(file) as tensors:
        for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
            if fault := find_nonfinite(name, tensors.get_tensor(name)):
                raise ConfigError(f"{file}: {fault}")


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ConfigError(
            f"{file} ({file.stat().st_size:,} bytes) is damaged or was not copied whole: {error};"
            " fetch it again"
        ) from None
