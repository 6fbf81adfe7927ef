"""The division task: its chains, its tokenizer, its data files and the base policy it ships."""

import json
import random
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

EXAMPLE = Path(__file__).parents[2] / "examples" / "division"
sys.path.insert(0, str(EXAMPLE))

from division import DELIMITER, HINT, Problem, boxed, chain, draw_problem  # noqa: E402
from make_base import HARD_DIGITS, MAX_LENGTH, collate, draw_example  # noqa: E402
from make_data import rows, split  # noqa: E402
from tokenizer import SYMBOLS, build_tokenizer  # noqa: E402

EXAMPLE_PROBLEM = Problem(5, "106973")
EXAMPLE_CHAIN = (
    r"01/5=0r1###10/5=2r0###06/5=1r1###19/5=3r4###47/5=9r2###23/5=4r3###\boxed{021394r3}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(EXAMPLE / "base")


@pytest.fixture(scope="module")
def base():
    return transformers.AutoModelForCausalLM.from_pretrained(EXAMPLE / "base").eval()


def test_the_example_problem_has_the_chain_answer_and_reference_worked_out_by_hand():
    assert EXAMPLE_PROBLEM.prompt == "5)106973="
    assert chain(EXAMPLE_PROBLEM) == EXAMPLE_CHAIN
    assert EXAMPLE_PROBLEM.answer == "021394r3"
    assert EXAMPLE_PROBLEM.reference == r"5*021394+3=106973###\boxed{021394r3}"


def test_an_easy_problem_is_padded_and_its_quotient_has_one_digit_per_digit():
    problem = Problem(5, "97")  # 97 = 5 * 19 + 2
    assert problem.prompt == "5)97....="
    assert problem.reference == r"5*19+2=97###\boxed{19r2}"
    assert chain(problem) == r"09/5=1r4###47/5=9r2###\boxed{19r2}"


@pytest.mark.parametrize("n_digits", [2, 3, 4, 6])
def test_a_chain_without_slips_ends_in_the_answer(n_digits):
    rng = random.Random(n_digits)
    for _ in range(200):
        problem = draw_problem(rng, n_digits)
        assert len(problem.digits) == n_digits
        assert 3 <= problem.divisor <= 9
        assert problem.digits[0] != "0"
        *steps, box = chain(problem, rng, slip_rate=0.0).split(DELIMITER)
        assert len(steps) == n_digits
        assert box == boxed(problem.answer)


def test_every_slip_spoils_its_own_step_and_the_answer():
    rng = random.Random(0)
    for _ in range(200):
        problem = draw_problem(rng, HARD_DIGITS)
        right = chain(problem).split(DELIMITER)
        slipped = chain(problem, rng, slip_rate=1.0).split(DELIMITER)
        assert slipped[0] != right[0]
        assert slipped[-1] != right[-1]


def test_a_chain_goes_on_from_what_it_wrote():
    rng = random.Random(0)
    for _ in range(200):
        problem = draw_problem(rng, HARD_DIGITS)
        *steps, box = chain(problem, rng, slip_rate=0.75).split(DELIMITER)
        quotient = "".join(step[5] for step in steps)
        assert box == boxed(f"{quotient}r{steps[-1][-1]}")
        for digit, step, last in zip(problem.digits[1:], steps[1:], steps, strict=False):
            assert step[0] in {"0", last[-1]}  # remainder forgotten or carried over
            assert step[1] == digit


def test_steps_slip_at_the_rate_asked_for():
    rng = random.Random(0)
    first_right = 0
    for _ in range(4000):
        problem = draw_problem(rng, HARD_DIGITS)
        step = chain(problem, rng, slip_rate=0.75).split(DELIMITER)[0]
        first_right += step == chain(problem).split(DELIMITER)[0]
    assert first_right / 4000 == pytest.approx(0.25, abs=0.03)  # 4 standard errors


def test_the_tokenizer_has_24_symbols_and_returns_every_text_unchanged(tokenizer):
    assert len(tokenizer) == len(SYMBOLS) == 24
    hinted = EXAMPLE_PROBLEM.hinted_prompt
    for text in (EXAMPLE_PROBLEM.prompt, EXAMPLE_CHAIN, hinted, Problem(5, "97").prompt):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.tokenize(r"3###\boxed{0r3}") == ["3", "###", r"\boxed{", "0", "r", "3", "}"]
    assert tokenizer.tokenize(HINT) == [HINT]


def test_the_tokenizer_refuses_what_is_not_in_its_vocabulary(tokenizer):
    for text in ("5)97 ....=", "5)97....=?", "5)97....=\n", "##"):
        with pytest.raises(Exception, match="UNK"):
            tokenizer.encode(text)


def test_the_chat_template_adds_bos_before_a_question_and_eos_after_an_answer(tokenizer):
    question = {"role": "user", "content": EXAMPLE_PROBLEM.prompt}
    answer = {"role": "assistant", "content": EXAMPLE_CHAIN}
    for generate in (False, True):
        text = tokenizer.apply_chat_template(
            [question], tokenize=False, add_generation_prompt=generate
        )
        assert text == "<bos>5)106973="
    ids = tokenizer.apply_chat_template([question, answer])["input_ids"]
    assert tokenizer.decode(ids) == f"<bos>5)106973={EXAMPLE_CHAIN}<eos>"
    assert len(ids) == 1 + 9 + 64 + 1


def test_the_tokenizer_in_the_base_folder_is_the_one_the_script_builds(tokenizer):
    built = build_tokenizer(MAX_LENGTH)
    assert tokenizer.backend_tokenizer.to_str() == built.backend_tokenizer.to_str()
    assert tokenizer.chat_template == built.chat_template
    assert tokenizer.model_max_length == MAX_LENGTH


def test_the_base_has_279648_parameters_and_one_embedding_matrix(base):
    assert base.num_parameters() == 279_648
    assert base.lm_head.weight is base.model.embed_tokens.weight
    assert base.dtype == torch.float32


def test_the_base_solves_most_easy_problems_when_it_takes_the_likeliest_token(base, tokenizer):
    rng = random.Random(0)
    problems = [draw_problem(rng, 2) for _ in range(64)]
    prompts = torch.tensor([tokenizer.encode(tokenizer.bos_token + p.prompt) for p in problems])
    written = base.generate(prompts, do_sample=False, max_new_tokens=40)[:, prompts.shape[1] :]
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    solved = sum(text == chain(p) for text, p in zip(texts, problems, strict=True))
    assert solved / len(problems) >= 0.8


def test_a_training_example_asks_for_the_chain_and_the_end_and_for_nothing_of_the_prompt(tokenizer):
    (ids,), (labels,) = collate(tokenizer, [(EXAMPLE_PROBLEM.hinted_prompt, EXAMPLE_CHAIN)])
    asked = tokenizer.decode(labels[labels != -100])
    assert asked == EXAMPLE_CHAIN + "<eos>"
    assert tokenizer.decode(ids) == f"<bos>{EXAMPLE_PROBLEM.hinted_prompt}{EXAMPLE_CHAIN}<eos>"


def test_the_base_is_trained_on_no_problem_of_the_data_files():
    rng = random.Random(0)
    drawn = [draw_example(rng, 0.75, set())[0] for _ in range(50)]
    rng = random.Random(0)
    first = next(prompt for prompt in drawn if HINT not in prompt)
    held_out = {Problem(int(first[0]), first[2:8].rstrip("."))}
    kept = [draw_example(rng, 0.75, held_out)[0] for _ in range(50)]
    assert first in drawn
    assert not any(prompt.startswith(first) for prompt in kept)


def test_the_data_files_are_what_the_script_writes_and_share_no_problem():
    seen = []
    for name, problems in split().items():
        lines = (EXAMPLE / f"{name}.jsonl").read_text().splitlines()
        written = [json.loads(line) for line in lines]
        assert written == rows(name, problems)
        assert all(len(row["problem"].rstrip("=")) == 8 for row in written)
        assert all("." not in row["problem"] for row in written)
        seen += [row["problem"] for row in written]
    assert len(seen) == len(set(seen)) == 16 + 32
