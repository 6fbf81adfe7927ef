"""What the dry run says of a chat template that does not do what the settings say."""

import pytest
from tiny_models import CHAT, REPLY, TURNS, make

from exprl import config
from exprl.data.template_remarks import remark_on_template
from exprl.data.tokenizer import load_tokenizer
from exprl.types import Message, Prompt

ASKED = Prompt("p", (Message("system", "Count aloud."), Message("user", " 6 * 7? ")))
SWITCH = CHAT + "{% if enable_thinking | default(true) %}{% else %}<think></think>{% endif %}"
DAY = "{{ strftime_now('%Y-%m-%d') }}"
DAY_OR_GIVEN = "{{ date if date is defined else strftime_now('%d') }}"


def remarks(tmp_path, template, *, bos=None, teacher=None, **arguments):
    model = config.Model(
        path=str(make(tmp_path / "m", template, bos=bos)), chat_template_kwargs=arguments
    )
    return list(remark_on_template(load_tokenizer(model), model, ASKED, teacher))


@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        (CHAT, {}),
        (SWITCH, {"enable_thinking": False}),
        (SWITCH, {"enable_thinking": True}),  # read, although it is what the template does anyway
        (CHAT + "{% if depth is defined %}x{% endif %}", {"depth": "deep"}),
        (CHAT + "{% if depth == 3 %}x{% endif %}", {"depth": 3}),
        (DAY_OR_GIVEN + CHAT, {"date": "1 May 2026"}),
    ],
)
def test_a_template_that_does_as_told_is_not_remarked_on(tmp_path, template, arguments):
    assert remarks(tmp_path, template, **arguments) == []


@pytest.mark.parametrize("arguments", [{"enable_thinking": False}, {"depth": 1, "reasoning": None}])
def test_an_argument_that_the_template_never_reads_is_named(tmp_path, arguments):
    told = remarks(tmp_path, CHAT, **arguments)
    assert len(told) == len(arguments)
    for name, line in zip(arguments, told, strict=True):
        assert line.startswith(f"model.chat_template_kwargs.{name} = ") and "never reads" in line


@pytest.mark.parametrize("template", [DAY + CHAT, CHAT + DAY, DAY_OR_GIVEN + CHAT])
def test_a_prompt_that_changes_with_the_day_is_told(tmp_path, template):
    [told] = remarks(tmp_path, template)
    assert "writes the date into the prompt" in told


def test_a_message_that_the_template_leaves_out_is_told(tmp_path):
    no_system = TURNS.replace("messages %}", "messages if m['role'] != 'system' %}") + REPLY
    [told] = remarks(tmp_path, no_system)
    assert "leaves out the system message 'Count aloud.'" in told


def test_a_bos_that_the_tokenizer_adds_and_the_template_does_not_is_told(tmp_path):
    [told] = remarks(tmp_path, CHAT, bos="<bot>")
    assert "'<bot>'" in told
    assert remarks(tmp_path, "{{ bos_token }}" + CHAT, bos="<bot>") == []


def test_a_teacher_that_begins_its_turn_otherwise_is_told(tmp_path):
    [told] = remarks(tmp_path, SWITCH, enable_thinking=False, teacher=config.Teacher())
    assert "the teacher's '</turn><turn>assistant: '" in told
    same = config.Teacher(chat_template_kwargs={"enable_thinking": False})
    assert remarks(tmp_path, SWITCH, enable_thinking=False, teacher=same) == []
