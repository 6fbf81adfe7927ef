"""Settings on the command line, in each of their forms."""

import pytest

from exprl.cli.options import read_overrides
from exprl.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        ([], []),
        (["optim.lr=1e-6", "train.steps=4"], ["optim.lr=1e-6", "train.steps=4"]),
        (["--optim.lr", "1e-6", "train.steps=4"], ["optim.lr=1e-6", "train.steps=4"]),
        (["--optim.lr=1e-6"], ["optim.lr=1e-6"]),
        (["--optim.max-grad-norm", "0.5"], ["optim.max_grad_norm=0.5"]),
        (["--seed", "3", "--run-dir", "runs/a"], ["seed=3", "run_dir=runs/a"]),
        (["--data.system", "Be brief. 1 + 1 = 2"], ["data.system=Be brief. 1 + 1 = 2"]),
        (["--data.columns.problem={Body} {Question}"], ["data.columns.problem={Body} {Question}"]),
        (["--eval.top_k", "-1"], ["eval.top_k=-1"]),
        (["--domains.my-own.rubric", "r.toml"], ["domains.my-own.rubric=r.toml"]),
        (["--lr", "1e-6"], ["lr=1e-6"]),  # then the config says which key is meant
    ],
)
def test_a_setting_may_be_written_as_an_option(words, overrides):
    assert read_overrides(words) == overrides


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--optim.lr"], "--optim.lr has no value"),
        (["--optim.lr="], "--optim.lr has no value"),
        (["--dryrun"], "there is no option --dryrun"),
        (["-n", "4"], "there is no option -n"),
        (["--batch-size", "4"], "there is no option --batch-size"),
    ],
)
def test_an_option_that_is_no_setting_is_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        read_overrides(words)
