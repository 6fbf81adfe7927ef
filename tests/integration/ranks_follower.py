"""A follower of ranks_cases.py: it follows one policy after the other, to save its start.

The leader names the config of the next policy; `exprl.run.follower` takes one config alone.
"""

import torch

from exprl import config
from exprl.learn.control import join
from exprl.learn.ranks import follow
from exprl.run.policy import policy_arguments

with join(torch.device("cpu")) as post:
    while (message := post.receive()).name == "policy":
        follow(post, policy_arguments(config.load(message.settings["config"])))
