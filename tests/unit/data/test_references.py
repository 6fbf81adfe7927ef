"""What SFT and the teacher are given, as tokens of a real tokenizer."""

import pytest
from tiny_models import CHAT, NUMBER, TURNS, make, opened

from exprl import config
from exprl.data.references import build_teacher_prompts, tokenize_solutions
from exprl.data.tokenizer import load_tokenizer
from exprl.errors import ConfigError
from exprl.thinking import open_thinking
from exprl.types import Message, Prompt, ReferenceProblem

EOT, TURN_END = NUMBER["<eot>"], NUMBER["</turn>"]


def asked(*messages, reference="6 * 7 = 42"):
    chat = tuple(Message(role, text) for role, text in messages)
    return ReferenceProblem("p", Prompt("p", chat), None, "math", reference=reference)


def taught(folder, *, reference="6 * 7 = 42", **settings):
    """Prompt and target of SFT, as text, and the ids of the target."""
    model = config.Model(path=str(folder), **settings)
    tokenizer = load_tokenizer(model)
    problem = asked(("user", "6 * 7?"), reference=reference)
    prompt, target = tokenize_solutions([problem], tokenizer, model)["p"]
    return tokenizer.decode(prompt), tokenizer.decode(target), target.tolist()


def test_sft_imitates_the_reference_and_then_ends_the_turn(tmp_path):
    prompt, target, ids = taught(make(tmp_path / "m"))
    assert prompt == "<turn>user: 6 * 7?</turn><turn>assistant: "
    assert target == "6 * 7 = 42</turn>" and ids[-1] == TURN_END


@pytest.mark.parametrize(
    ("template", "files", "end"),
    [
        # The tokenizer's end is another one, as with many base models.
        (CHAT, {"eos": "<eot>"}, TURN_END),
        (CHAT, {"eos": "</turn>"}, TURN_END),
        # Named by generation_config.json alone, in any order.
        (CHAT, {"eos": "<eot>", "ends": [EOT, TURN_END]}, TURN_END),
        (CHAT, {"eos": None, "ends": [TURN_END, EOT]}, TURN_END),
        (CHAT, {"eos": None, "ends": TURN_END}, TURN_END),
        # The template writes nothing after a reply, or nothing that is a control token.
        ("{{ messages[0]['content'] }}", {"eos": "<eot>"}, EOT),
        (
            "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n\n{% endfor %}",
            {"eos": "<eot>"},
            EOT,
        ),
        # It takes single questions only.
        ("{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}Q", {}, EOT),
        # A named end wins over other control tokens that stand before it.
        (TURNS.replace("</turn>", "</turn><eot>"), {"eos": "<eot>"}, EOT),
    ],
)
def test_the_target_ends_as_the_template_ends_a_turn(tmp_path, template, files, end):
    _, _, ids = taught(make(tmp_path / "m", template, **files))
    assert ids[-1] == end and ids.count(end) == 1


@pytest.mark.parametrize("ends", [None, [], EOT])
def test_without_an_end_there_is_one_message_that_says_where_to_set_it(tmp_path, ends):
    folder = make(tmp_path / "m", eos=None, ends=ends)
    with pytest.raises(ConfigError, match=r"no end of a turn \(eos\).*tokenizer_config.json"):
        taught(folder)


@pytest.mark.parametrize("ends", ["<eot>", [EOT, "</turn>"], [True]])
def test_an_end_that_is_no_token_id_is_named(tmp_path, ends):
    with pytest.raises(ConfigError, match=r"eos_token_id = .*expected token ids"):
        taught(make(tmp_path / "m", ends=ends))


@pytest.mark.parametrize(
    "tag", ["<think>", "<think>\n", "<thinking>\n\n", "[THINK]", "<reasoning>"]
)
def test_a_thinking_block_that_the_prompt_opens_is_closed_before_the_reference(tmp_path, tag):
    prompt, target, _ = taught(make(tmp_path / "m", opened(tag)))
    assert prompt.endswith(f"<turn>assistant: {tag}")
    close = open_thinking(tag)
    assert target == f"\n{close}\n\n6 * 7 = 42</turn>"
    assert open_thinking(prompt + target) is None


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ("<think>7 sixes</think>42", "7 sixes</think>42"),
        ("7 sixes</think>42", "7 sixes</think>42"),
        ("so <think>7 sixes</think>42", "\n</think>\n\nso <think>7 sixes</think>42"),
    ],
)
def test_a_reference_with_thinking_of_its_own_goes_on_in_the_open_block(
    tmp_path, reference, target
):
    _, found, _ = taught(make(tmp_path / "m", opened("<think>")), reference=reference)
    assert found == target + "</turn>"


def test_a_block_that_the_problem_opens_is_not_the_models(tmp_path):
    model = config.Model(path=str(make(tmp_path / "m")))
    tokenizer = load_tokenizer(model)
    problem = asked(("user", "what is <think> in html?"))
    _, target = tokenize_solutions([problem], tokenizer, model)["p"]
    assert tokenizer.decode(target) == "6 * 7 = 42</turn>"


def test_the_teachers_prompt_holds_problem_and_reference_as_they_are(tmp_path):
    tokenizer = load_tokenizer(config.Model(path=str(make(tmp_path / "m"))))
    problem = asked(
        ("system", "Be brief."),
        ("user", "a {reference} in a {problem}"),
        reference="see {problem} {reference}",
    )
    teacher = config.Teacher(prompt="{problem} | {reference}!")
    prompts = build_teacher_prompts(teacher, [problem], tokenizer)
    assert tokenizer.decode(prompts["p"]) == (
        "<turn>system: Be brief.</turn>"
        "<turn>user: a {reference} in a {problem} | see {problem} {reference}!</turn>"
        "<turn>assistant: "
    )


def test_the_teacher_has_template_arguments_of_its_own(tmp_path):
    template = CHAT + "{% if depth is defined %}{{ depth }}{% endif %}"
    model = config.Model(path=str(make(tmp_path / "m", template)))
    tokenizer = load_tokenizer(model)
    for arguments, end in (({}, ": "), ({"depth": 3}, ": 3")):
        teacher = config.Teacher(chat_template_kwargs=arguments)
        [ids] = build_teacher_prompts(teacher, [asked(("user", "?"))], tokenizer).values()
        assert tokenizer.decode(ids).endswith(f"<turn>assistant{end}")
