r"""What does rubric dropout do to a run whose judge has nothing but the rubric?

    python bench/rubric_dropout.py                 # three rates, three seeds
    python bench/rubric_dropout.py --seeds 0 --rates 0 0.5
    python bench/rubric_dropout.py --report-only

The miniature with 16 problems x 8 rollouts a step, and a judge that reads the checkpoints of a
request and knows nothing else: this script serves it. Each problem has six checkpoints, one for
each digit of the quotient. A beginning is graded 1 if a step that is on the checklist is wrong, 5
if all that it has come to are right, and 3 if it has come to none of them. So a step whose
checkpoint is left out is not checked, and an error there goes unseen. Such a judge has no weakness
that a policy could learn to please: the rows say what dropout costs where there is nothing to win.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import mean
from typing import Any

import _arms

from exprl import files

EXAMPLES = _arms.REPOSITORY / "examples" / "division"
STEP = re.compile(r"\d\d/\d=(\d)r(\d)")
BOX = re.compile(r"\\boxed\{(\d+r\d)\}")
CHECKPOINT = re.compile(r"\(weight \d+\) step (\d) is (\d)r(\d)(?:, and the box is (\d+r\d))?")
JUDGED = re.compile(r"<prefix-([0-9a-f]{16})>\n(.*?)\n</prefix-\1>", re.DOTALL)
LISTED = re.compile(r"<checklist-([0-9a-f]{16})>\n(.*?)\n</checklist-\1>", re.DOTALL)
RATES = (0.0, 0.25, 0.5)
COLUMNS = {
    "right": "reward/correct_rate",
    "reward": "reward/mean",
    "entropy": "policy/entropy",
    "requests": "judge/requests",
}


def write_rubrics(file: Path) -> None:
    """Six checkpoints for each problem, one for each digit of its quotient."""
    lines = []
    for row in files.read_jsonl(EXAMPLES / "train.jsonl"):
        divisor, digits = row["problem"].rstrip("=").strip(".").split(")")
        remainder, checkpoints = 0, []
        for number, digit in enumerate(digits, 1):
            quotient, remainder = divmod(10 * remainder + int(digit), int(divisor))
            text = f"step {number} is {quotient}r{remainder}"
            if number == len(digits):
                text += f", and the box is {row['answer']}"
            checkpoints.append({"text": text, "weight": 1})
        lines.append(json.dumps({"problem": row["problem"], "checkpoints": checkpoints}) + "\n")
    files.write_text(file, "".join(lines))


def grade(message: str) -> int:
    """The grade of a beginning, by the checkpoints that the message shows."""
    trace, listed = JUDGED.search(message), LISTED.search(message)
    assert trace and listed, "a process request with a checklist"
    steps = trace[2].split("###")
    box = BOX.search(trace[2])
    reached = 0
    for number, quotient, remainder, answer in CHECKPOINT.findall(listed[2]):
        place = int(number) - 1
        if place >= len(steps):
            continue
        reached += 1
        found = STEP.fullmatch(steps[place].strip())
        if not found or found.groups() != (quotient, remainder):
            return 1
        if answer and box and box[1] != answer:
            return 1
    return 5 if reached else 3


class Judge(BaseHTTPRequestHandler):
    """Grades by the checklist of the request alone."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Grade."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = f"Score: {grade(body['messages'][0]['content'])}"
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        answer = json.dumps({"choices": [choice]}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
        self.wfile.write(head + answer)

    def do_GET(self) -> None:
        """No metrics and no list of models."""
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serve() -> Iterator[str]:
    """The judge on a free port of loopback; gives its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def show(found: Sequence[dict[str, Any]]) -> None:
    print(f"{'dropout':>8} seed  pass@1  right in the last four steps  reward  seconds")
    for one in sorted(found, key=lambda one: (one["arm"], one["seed"])):
        right, reward = (mean(one[name][-4:]) for name in ("right", "reward"))
        print(
            f"{one['arm']:>8} {one['seed']:4}  {one['pass_at_1']:6.3f}"
            f"  {right:28.3f}  {reward:6.3f}  {one['wall_s']:7.0f}"
        )


def main() -> None:
    parser = _arms.make_parser(__doc__, "rubric-dropout")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="transformers")
    options = parser.parse_args()
    os.chdir(_arms.REPOSITORY)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    rubrics = out / "rubrics.jsonl"
    write_rubrics(rubrics)
    arms = {f"{rate:g}": (f"judge.rubric_dropout={rate}",) for rate in options.rates}
    with serve() as url:
        common = (
            "judge.kind=server",
            f"judge.endpoints=[{json.dumps(url)}]",
            "judge.model=checklist",
            f"judge.rubrics={json.dumps(str(rubrics))}",
            f"rollout.engine={options.engine}",
            "rollout.group_size=8",
            f"train.steps={options.steps}",
            "eval.samples=16",
        )
        runs = _arms.plan(arms, options.seeds, common, out, evaluated=True)
        if not options.report_only:
            _arms.work(runs)
        found = _arms.rows("rubric_dropout", runs, COLUMNS)
    for one in found:  # a port and a path of this machine
        own = ("judge.endpoints", "judge.rubrics=")
        one["settings"] = [s for s in one["settings"] if not s.startswith(own)]
    show(_arms.save("rubric_dropout", found))


if __name__ == "__main__":
    main()
