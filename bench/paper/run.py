"""The paper's tables in miniature: every start x both stages x seeds, in one command.

    python bench/paper/run.py                                   # the table, about half an hour
    python bench/paper/run.py --starts delta grpo --seeds 3 4 5
    python bench/paper/run.py --report-only
    python bench/paper/run.py --scale gpu --seeds 0             # 25 M parameters, on one GPU

Kill it and start it again: finished cells are not repeated, an unfinished one goes on at its last
checkpoint. At the end the rows go to bench/results/paper.jsonl, and docs/project/paper.md
with its figures is written from them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]

sys.path.insert(0, str(HERE.parent))

from paper import cells, judge, report, rows, scale  # noqa: E402


def plan(starts: list[str], seeds: list[int]) -> list[cells.Cell]:
    """The paper's rows first, seed by seed, so that whatever is done first makes a table."""
    return [
        cells.Cell(start, seed)
        for group in (cells.PAPER_STARTS, cells.ABLATION_STARTS)
        for seed in seeds
        for start in group
        if start in starts
    ]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=list(scale.SCALES), default="cpu")
    parser.add_argument("--out", type=Path, help="folder of the runs; default runs/paper-SCALE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--starts", nargs="+", choices=list(cells.STARTS), default=list(cells.STARTS)
    )
    parser.add_argument(
        "--workers", type=int, help="processes; default 2 on a CPU, one thread each, and 1 on a GPU"
    )
    parser.add_argument("--rows", type=Path, default=rows.FILE, help="where the rows go")
    parser.add_argument("--page", type=Path, default=report.PAGE, help="where the page goes")
    parser.add_argument("--report-only", action="store_true", help="rows and page of what is done")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    os.chdir(REPOSITORY)
    out = (options.out or REPOSITORY / "runs" / f"paper-{options.scale}").resolve()
    common = scale.prepared(scale.SCALES[options.scale], out)
    work = plan(options.starts, options.seeds)
    if options.worker:
        cells.work(work, out, common)
        return
    if not options.report_only:
        run_workers(options.workers or (1 if options.scale == "gpu" else 2), out)
    rows.save(rows.collect(out, options.scale, common), options.rows)
    judged = cells.run_dir(cells.Cell("delta", 0), 1, out)
    if options.scale == "cpu" and (judged / "rollouts").exists():
        judge.save(judge.measure(judged))
    report.write(rows.read(options.rows), judge.read(), options.page)
    print(f"{options.rows}, {options.page}")


def run_workers(count: int, out: Path) -> None:
    """Start the workers, each with a log of its own, and wait for all of them."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.time()
    workers = []
    for i in range(count):
        with (out / f"worker{i}.log").open("a") as log:
            command = [sys.executable, __file__, *sys.argv[1:], "--worker"]
            workers.append(subprocess.Popen(command, stdout=log, stderr=log))
    try:
        codes = [worker.wait() for worker in workers]
    except KeyboardInterrupt:
        codes = [worker.wait() for worker in workers]  # they got the Ctrl-C too, and save
    print(f"{(time.time() - started) / 60:.1f} minutes")
    if any(codes):
        sys.exit(f"a worker ended with {codes}; see {out}/worker*.log, then start this again")


if __name__ == "__main__":
    main()
