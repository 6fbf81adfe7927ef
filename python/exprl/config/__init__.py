"""TOML and dotted overrides, into a frozen, strict tree.

run.py is the file to read first. Each section belongs to the room of the same name, and a room
receives its own section only. `method` names a preset (presets.py) whose values fill in whatever
the file leaves open.
Imports neither torch nor vllm.
"""

from exprl.config.data import BOXED, Columns, Data, MixedSource, Source
from exprl.config.functions import FunctionName, Functions
from exprl.config.keys import defaults, describe, differences, flatten, leaves
from exprl.config.noise import Noise
from exprl.config.policy import (
    Aggregation,
    Lora,
    Loss,
    Model,
    Objective,
    Optim,
    Rollout,
    Teacher,
    Train,
)
from exprl.config.reward import (
    CONFINEMENTS,
    Advantage,
    Condition,
    Confinement,
    Domain,
    Judge,
    Reward,
    Sandbox,
    Treatment,
    VerifierName,
    Verify,
    read_verifier,
)
from exprl.config.run import Config
from exprl.config.scale import Cluster, Engine, JudgeServe, Ranks
from exprl.config.toml import (
    build,
    build_judge,
    json_schema,
    load,
    load_judge,
    override,
    read,
    to_toml,
)
from exprl.config.watch import ALL_TOKENS, Alarms, Evaluation, Logging, Truncation

__all__ = [
    "ALL_TOKENS",
    "BOXED",
    "CONFINEMENTS",
    "Advantage",
    "Aggregation",
    "Alarms",
    "Cluster",
    "Columns",
    "Condition",
    "Config",
    "Confinement",
    "Data",
    "Domain",
    "Engine",
    "Evaluation",
    "FunctionName",
    "Functions",
    "Judge",
    "JudgeServe",
    "Logging",
    "Lora",
    "Loss",
    "MixedSource",
    "Model",
    "Noise",
    "Objective",
    "Optim",
    "Ranks",
    "Reward",
    "Rollout",
    "Sandbox",
    "Source",
    "Teacher",
    "Train",
    "Treatment",
    "Truncation",
    "VerifierName",
    "Verify",
    "build",
    "build_judge",
    "defaults",
    "describe",
    "differences",
    "flatten",
    "json_schema",
    "leaves",
    "load",
    "load_judge",
    "override",
    "read",
    "read_verifier",
    "to_toml",
]
