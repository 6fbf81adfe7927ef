"""Chat templates and tokenizers with the oddities that real ones have."""

import pytest
from case_files import FOLDER, Case, assert_refused, every_line, load_script

from exprl import config
from exprl.data.references import tokenize_solutions
from exprl.data.tokenizer import load_tokenizer, prompt_ids
from exprl.types import Message, Prompt, ReferenceProblem

OURS = "chat_template_kwargs"


@pytest.fixture(scope="module")
def make_model(tmp_path_factory):
    """Write one of the models that the cases name; gives its folder."""
    folder = tmp_path_factory.mktemp("templates")
    script = load_script(FOLDER / "templates" / "make_templates.py")
    return lambda name: script.make(name, folder)


def tokenize(path: str, case: Case) -> dict[str, object]:
    """Prompt and target as the policy or SFT gets them, and what is in them."""
    # A case lists spellings of one setting; ours is among them.
    settings = next((keys for keys in case.get("keys_any", [{}]) if not keys or OURS in keys), {})
    model = config.Model(path=path, **settings)
    tokenizer = load_tokenizer(model)
    said = case.get("messages", [["user", "2+2?"]])
    prompt = Prompt("1", tuple(Message(role, content) for role, content in said))
    if case["ask"] == "prompt":
        ids, target = prompt_ids(tokenizer, prompt, model), []
    else:
        problem = ReferenceProblem("1", prompt, "4", "math", reference="r = 4")
        ids, target = tokenize_solutions([problem], tokenizer, model)["1"]
    every = [int(one) for one in (*ids, *target)]
    text = tokenizer.decode(every)
    return {
        "text": text,
        "prompt": tokenizer.decode([int(one) for one in ids]),
        "bos": every.count(tokenizer.bos_token_id),
        "last": every[-1],
        "balanced": all(
            text.count(f"<{tag}>") == text.count(f"</{tag}>") for tag in ("think", "thinking")
        ),
    }


@every_line("templates/cases.jsonl")
def test_prompts_and_targets_are_those_of_the_template(number, case, make_model):
    try:
        found, error = tokenize(str(make_model(case["model"])), case), None
    except Exception as caught:
        found, error = {}, caught
    if case["expected"] == "refused":
        assert_refused(error, case)
        return
    assert error is None
    for key, wanted in case["expected"].items():
        if isinstance(wanted, dict):
            assert all(text in found[key] for text in wanted.get("has", ()))
            assert not any(text in found[key] for text in wanted.get("has_not", ()))
        else:
            assert found[key] in (wanted, *case.get("also_ok", ()))
