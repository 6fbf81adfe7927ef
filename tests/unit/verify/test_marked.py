r"""The final answer that a trace marks, and text that marks none."""

import pytest

from exprl.verify.marked import find_marked


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So \boxed{72}.", "72"),
        (r"\fbox{72}", "72"),
        (r"\boxed{71}, or rather \boxed{72}", "72"),
        (r"\boxed{71 and \boxed{72}", "72"),
        (r"\boxed{\boxed{72}}", "72"),
        (r"\boxed {72}", "72"),
        (r"\\boxed{72}", "72"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"} } stray { \boxed{72} {", "72"),
        (r"\boxed{[0, 1\}}", r"[0, 1\}"),
        (r"\boxed{72}" + "\n#### 73", "72"),
        (r"The answer is 71. \boxed{72}" + "\nThe answer is 73.", "72"),
        ("#### 71\n#### 72\n", "72"),
        ("16 - 3 = 13\n#### 13 apples ", "13 apples"),
        ("####72", "72"),
        ("#### **72**", "72"),
    ],
)
def test_the_last_box_or_a_last_line_of_hashes_is_the_final_answer(text, answer):
    assert find_marked(text).answer == answer


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 72.",
        "So, the final answer is: 72",
        "therefore the correct answer must be 72.",
        "Answer: 72",
        "ANSWER = 72",
        "**Answer:** 72",
        "**Answer: 72**",
        "__Final answer__: `72`",
        "## Final Answer: 72",
        "- Answer: 72.",
        "3. Answer: 72",
        "Ans: 72",
        "A: 72",
        "Answer (in dollars): 72",
        "The answer to the question is 72.",
        "Step 4: the answer is therefore 72.",
        "I add 2 and 70, so my answer is 72.",
        "It is not 71, the answer is 72.",
        "The answer is 71. No, the answer is 72.",
        "Answer: 71\nAnswer: 72",
        "The answer is\n72",
        "The final answer is:\n\n72.",
        "**Final Answer**\n\n72",
        "### Answer\n72",
        "Final Answer: The final answer is 72. I hope it is correct.",
        "\u7b54\u6848\nAnswer\uff1a72",
        'The answer is "72".',
        "The answer is 72.\n\n  \n",
    ],
)
def test_a_statement_on_the_last_line_is_the_final_answer(text):
    assert find_marked(text).answer == "72"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is $x_{1} = 2*3$.", "$x_{1} = 2*3$"),
        ("The answer is:\n\\[\n72\n\\]", "$72$"),
        ("Thus the answer is\n$$\nx^2\n$$", "$x^2$"),
        ("Answer: 10**3", "10**3"),
        ("The answer is 72 or 73.", "72 or 73"),
        ("The answer is not 72", "not 72"),
    ],
)
def test_what_a_statement_says_is_taken_whole(text, answer):
    assert find_marked(text).answer == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "72",
        r"boxed{72}",
        r"\framebox{72}",
        "#### Step 2\nthen",
        "##### 72",
        "### 72",
        "####\n",
        "x#### 1",
        "There are 72 of them.",
        "Problem 72: find x.",
        "72 is the answer that Bob gave",
        "The answer is 72.\nBut let me check that.",
        "I doubt that the answer is 72",
        "I don't think the answer is 72",
        "It is not true that the answer is 72",
        "If x is even, the answer is 72",
        "Perhaps the answer is 72.",
        "I guess the answer is 72",
        "One could say the answer is 72",
        "The answer isn't 72",
        "The answer isn\u2019t 72",
        "The wrong answer is 72",
        "A tempting answer is 72",
        "Bob's answer is 72",
        "Is the answer 72?",
        "What is the answer?\n72",
        "Answers: 72",
        "the answer",
        "The answer is",
        "Answer:",
    ],
)
def test_a_trace_without_a_mark_has_no_answer(text):
    assert find_marked(text).answer is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (r"\boxed{72} and an unclosed \boxed{73", "not closed"),
        (r"\boxed{72" + "\n#### 72", "not closed"),
        (r"I get \boxed{72}. Put it into \boxed{}.", "empty"),
        (r"\boxed{72}, no: \fbox{$\,$}", "empty"),
        ("so 72", "no marked answer"),
        (r"<think>\boxed{72}", "never closes"),
    ],
)
def test_a_trace_without_an_answer_says_why(text, reason):
    found = find_marked(text)
    assert found.answer is None
    assert reason in found.reason


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>\boxed{71}</think>\boxed{72}", "72"),
        (r"<think>\boxed{72}</think> I give up.", None),
        ("<think>The answer is 72.</think>\nNo idea.", None),
        (r"\boxed{72}</think> I give up.", None),
        ("It is 71.</think>\nThe answer is 72.", "72"),
        (r"[THINK]\boxed{72}[/THINK]", None),
        (r"<reasoning>so #### 71</reasoning>" + "\n#### 72", "72"),
        (r"\boxed{72}<think>\boxed{71}", "72"),
        ("<think>72</think>The answer is <think>hm</think>72", "72"),
    ],
)
def test_text_inside_thinking_counts_for_nothing(text, answer):
    assert find_marked(text).answer == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The correct option is (D).", "(D)"),
        ("My choice: B", "B"),
        ("Option B is wrong.", None),
        ("A: 5 m/s", None),
    ],
)
def test_a_choice_may_be_called_an_option(text, letter):
    assert find_marked(text, choice=True).answer == letter


PIECES = [
    "answer is ",
    "$$ ",
    "the answer to ",
    "A:",
    "#### ",
    "I hope ",
    ", no",
    "\\boxed{",
    "*_ ",
]


@pytest.mark.parametrize("piece", [*PIECES, *" \n$*_(#{}<\\"])
def test_the_search_is_linear_in_a_hostile_text(piece):
    """400 kB; a quadratic search would not end within the suite's time limit."""
    text = piece * (400_000 // len(piece))
    for whole in (text, text + "x", f"The answer is {text}", f"<think>{text}"):
        find_marked(whole)
