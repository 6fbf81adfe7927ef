"""Small rows of our own with the columns of the public datasets that the paper's runs read.

The columns are those that the published scripts name: of POPE, InT, SciKnowEval and LiveCodeBench
in `data/instruct`, and of the MathArena sets in the schema of their cards.
"""

import json

STEPS = "### Add\n{n} + {n} = {sum}\n\n### Answer\n\\boxed{{{sum}}}"


def pope(n):
    return {
        "problem": f"What is {n} + {n}?",
        "answer": str(2 * n),
        "gemini_solution": STEPS.format(n=n, sum=2 * n),
    }


def int_(n):
    return {
        "problem": f"What is three times {n}?",
        "answer": str(3 * n),
        "solution": f"{n} + {n} + {n} = {3 * n}. The answer is {3 * n}.",
        "student_solutions": [f"It is {n}."],
    }


def verl(messages, ability, gold, **extra):
    """A row of the schema in which the scripts keep their parquet files."""
    return {
        "data_source": "made/for-a-test",
        "prompt": messages,
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": gold},
        "extra_info": {"split": "train", **extra},
    }


def sciknoweval_mcq(n):
    question = f"A body of {n} kg has the weight"
    choices = {"label": ["A", "B"], "text": [f"{n} N", f"{10 * n} N"]}
    system = {"role": "system", "content": "Reason, then write `Final Answer: <LETTER>`."}
    user = {"role": "user", "content": f"{question}\n\nA. {n} N\nB. {10 * n} N"}
    solution = f"### Weight\nG = m g = {n} kg x 10 m/s^2 = {10 * n} N.\n\nFinal Answer: B"
    return verl(
        [system, user],
        "Science",
        "B",
        question=question,
        choices=choices,
        answerKey="B",
        solution=solution,
    )


def sciknoweval_open(n):
    question = f"Why does a body of {n} kg fall as fast as one of {n + 1} kg in a vacuum?"
    answer = "Force and inertia both grow with the mass, so that the acceleration is the same."
    return verl(
        [{"role": "user", "content": question}],
        "Science",
        answer,
        question=question,
        subtask="physics_question",
        solution=answer,
    )


def livecodebench(n):
    user = {"role": "user", "content": f"Read a number from stdin and print it times {n}."}
    program = f"```python\nprint(int(input()) * {n})\n```"
    packed = "eJyLrlbKzCsoLSlWslJQMlTSUVDKLy0BcYyUamMBiD0HeA=="
    return verl([user], "Code", packed, index=n, solution=f"Multiply.\n\n{program}")


def matharena(n):
    return {
        "problem_idx": n,
        "problem": f"Find {n}^2.",
        "answer": n * n,
        "problem_type": ["Algebra"],
    }


def hmmt(n):
    return {"problem_idx": n, "problem": f"Find {n} / 7.", "answer": rf"\frac{{{n}}}{{7}}"}


def imo_answerbench(n):
    return {"Problem ID": f"made-{n}", "Problem": f"Find {n} - 1.", "Short Answer": str(n - 1)}


MADE = {
    "CohenQu/POPE-hard-dataset-Qwen3-4B-Instruct-32k-128-filtered-iter3-gemini-success": pope,
    "d1shs0ap/unified-hard-set-with-student-solutions-guided-rl": int_,
    "violetxi/sciknoweval_mcq_l3_loose_gemini-3-pro": sciknoweval_mcq,
    "violetxi/sciknoweval_oe_v1_physics_gemini-3-pro": sciknoweval_open,
    "violetxi/livecodebench_v6_gemini-3-pro": livecodebench,
    "MathArena/aime_2025": matharena,
    "MathArena/aime_2026": matharena,
    "MathArena/hmmt_nov_2025": hmmt,
    "Hwilner/imo-answerbench": imo_answerbench,
}
"""How a row of each dataset is made, by the dataset's name on the hub."""


def write(folder, name, count=40):
    """Rows of one dataset as a JSONL file; gives its path."""
    path = folder / f"{name.replace('/', '_')}.jsonl"
    path.write_text("".join(f"{json.dumps(MADE[name](n))}\n" for n in range(1, count + 1)))
    return path
