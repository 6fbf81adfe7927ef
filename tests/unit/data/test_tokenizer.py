"""Prompts as the model's own template writes them, and what to do where it refuses."""

import pytest
from tiny_models import CHAT, IN_TURNS, NO_SYSTEM, NUMBER, make, opened

from exprl import config
from exprl.data.tokenizer import load_tokenizer, prompt_ids
from exprl.data.turns import find_stops, thinking_opened
from exprl.errors import ConfigError, DataError
from exprl.types import Message, Prompt

SWITCH = CHAT + (
    "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "<think></think>{% endif %}"
)


def chat(*messages):
    return Prompt("p", tuple(Message(role, text) for role, text in messages))


ASKED = chat(("user", "6 * 7?"))


def prompt_text(folder, prompt=ASKED, **settings):
    model = config.Model(path=str(folder), **settings)
    tokenizer = load_tokenizer(model)
    return tokenizer.decode(prompt_ids(tokenizer, prompt, model))


def test_the_arguments_reach_the_template_and_are_the_templates_own_where_none_are_set(tmp_path):
    folder = make(tmp_path / "m", SWITCH)
    plain = "<turn>user: 6 * 7?</turn><turn>assistant: "
    assert prompt_text(folder) == plain
    for on in (True, False):
        text = prompt_text(folder, chat_template_kwargs={"enable_thinking": on})
        assert text == plain + ("" if on else "<think></think>")


@pytest.mark.parametrize("name", ["tokenize", "add_generation_prompt", "messages", "a-b"])
def test_an_argument_that_no_template_has_is_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' is no argument of a chat template"):
        config.Model(path="m", chat_template_kwargs={name: 1})


@pytest.mark.parametrize(("template", "count"), [("{{ bos_token }}" + CHAT, 1), (CHAT, 0)])
def test_a_prompt_has_as_many_bos_as_the_template_writes(tmp_path, template, count):
    """Also where the tokenizer itself would add one to every text."""
    model = config.Model(path=str(make(tmp_path / "m", template, bos="<bot>")))
    tokenizer = load_tokenizer(model)
    assert tokenizer("6")["input_ids"].count(NUMBER["<bot>"]) == 1
    assert prompt_ids(tokenizer, ASKED, model).count(NUMBER["<bot>"]) == count


@pytest.mark.parametrize("rule", [NO_SYSTEM, IN_TURNS])
def test_a_system_message_that_the_template_refuses_is_told_with_the_remedy(tmp_path, rule):
    folder = make(tmp_path / "m", rule + CHAT)
    asked = chat(("system", "Count aloud."), ("user", "6 * 7?"))
    with pytest.raises(DataError) as told:
        prompt_text(folder, asked)
    words = "no system role" if rule is NO_SYSTEM else "take turns"
    for part in (words, "data.system", r"data.template = 'Count aloud.\n\n{problem}'"):
        assert part in str(told.value)
    assert prompt_text(folder).startswith("<turn>user")


def test_roles_in_an_order_that_the_template_refuses_are_told(tmp_path):
    folder = make(tmp_path / "m", IN_TURNS + CHAT)
    asked = chat(("user", "Hello."), ("user", "6 * 7?"))
    with pytest.raises(DataError, match=r"take turns; the roles .* are user, user: "):
        prompt_text(folder, asked)


def test_an_argument_that_the_template_refuses_is_told(tmp_path):
    template = "{% if depth is defined %}{{ raise_exception('no depth') }}{% endif %}" + CHAT
    with pytest.raises(DataError, match=r"no depth; it takes the prompt without .* depth"):
        prompt_text(make(tmp_path / "m", template), chat_template_kwargs={"depth": 1})


@pytest.mark.parametrize(
    ("files", "stops"),
    [
        ({"eos": "<eot>"}, ("<eot>", "</turn>")),  # the template's own end of a turn
        ({"eos": "</turn>"}, ("</turn>",)),
        ({"eos": "<eot>", "ends": [NUMBER["<bot>"], NUMBER["</turn>"]]}, None),
        ({"eos": None, "ends": NUMBER["<eot>"]}, ("<eot>",)),
    ],
)
def test_a_rollout_stops_at_every_end_that_the_models_files_name(tmp_path, files, stops):
    model = config.Model(path=str(make(tmp_path / "m", **files)))
    expected = sorted(NUMBER[token] for token in stops or ("<bot>", "<eot>", "</turn>"))
    assert find_stops(load_tokenizer(model), model) == tuple(expected)


def test_a_model_at_which_nothing_stops_is_refused(tmp_path):
    model = config.Model(path=str(make(tmp_path / "m", eos=None)))
    with pytest.raises(ConfigError, match=r"eos_token and its generation_config\.json no eos_tok"):
        find_stops(load_tokenizer(model), model)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHAT, ""),
        (opened("<think>\n"), "<think>\n"),
        (opened("So <thinking>Hm, "), "<thinking>Hm, "),
        (opened("<think></think>\n\n"), ""),
        (opened("<think></think><think>"), "<think></think><think>"),
        ("{{ messages[0]['content'] }}", ""),
    ],
)
@pytest.mark.parametrize("question", ["6 * 7?", "close </think> it", "open <think> it", "QUESTION"])
def test_the_thinking_that_a_prompt_opens_is_the_templates(tmp_path, template, expected, question):
    model = config.Model(path=str(make(tmp_path / "m", template)))
    tokenizer = load_tokenizer(model)
    assert thinking_opened(tokenizer, chat(("user", question)), model) == expected
