"""Reinforcement learning in mid-training: dense judge rewards from hidden reference solutions.

    from exprl import load_config, run_training

    cfg = load_config("configs/division_process.toml", ["train.steps=8"])
    result = run_training(cfg, on_step=lambda step: print(step.metrics["reward/mean"]))

Importing this package imports nothing else, and each name below its module at first use.
`exprl.train` is the file to read first.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exprl._core import __version__
    from exprl.config import load as load_config
    from exprl.train import run_training
    from exprl.types import StepReport, TrainingResult

__all__ = [
    "StepReport",
    "TrainingResult",
    "__version__",
    "load_config",
    "run_training",
]

_HOMES = {
    "StepReport": ("exprl.types", "StepReport"),
    "TrainingResult": ("exprl.types", "TrainingResult"),
    "__version__": ("exprl._core", "__version__"),
    "load_config": ("exprl.config", "load"),
    "run_training": ("exprl.train", "run_training"),
}


def __getattr__(name: str) -> Any:
    """A public name, from the module that defines it."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
