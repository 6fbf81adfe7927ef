"""Near-duplicate problems: the doctor's own search beside MinHash LSH of datasketch.

Problems of templates with different numbers, which are no duplicates, and edited copies of some of
them, which are. `--rows FILE --problem NAME` puts the problems of a JSONL file in their place.

    python bench/near_duplicates.py [--rows gsm8k.jsonl --problem question]
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import _row
from _clean_rows import make_words
from _plant import edit

from exprl.study.doctor.alike import find_alike
from exprl.study.doctor.words import Texts, Vocabulary, split_words

ROWS, COPIES = 5000, 250
Pairs = Iterable[tuple[int, int]]


def find_by_numbers(problems: list[str]) -> Pairs:
    """`exprl doctor data`: the same numbers in their order, then the share of common words."""
    texts = Texts(Vocabulary())
    for problem in problems:
        texts.add(split_words(problem, signs=True))
    return {(pair.first, pair.second) for pair in find_alike(texts)}


def find_by_minhash(problems: list[str]) -> Pairs:
    """Datasketch: Jaccard of word pairs of 0.7 or more, by 128 permutations."""
    from datasketch import MinHash, MinHashLSH

    index, pairs = MinHashLSH(threshold=0.7, num_perm=128), set()
    for place, problem in enumerate(problems):
        words = split_words(problem)
        sketch = MinHash(num_perm=128)
        sketch.update_batch([" ".join(two).encode() for two in itertools.pairwise(words)])
        pairs |= {(other, place) for other in index.query(sketch)}
        index.insert(place, sketch)
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--problem", default="question")
    arguments = parser.parse_args()
    rng = random.Random(0)
    if arguments.rows:
        lines = arguments.rows.read_text(encoding="utf-8").splitlines()[:ROWS]
        problems = [json.loads(line)[arguments.problem] for line in lines]
    else:
        problems = [row["question"] for row in make_words(rng, ROWS)]
    problems = list(dict.fromkeys(problems))
    chosen = rng.sample(range(len(problems)), COPIES)
    truth = {(place, len(problems) + k) for k, place in enumerate(chosen)}
    problems += [edit(problems[place], rng) for place in chosen]
    rivals: dict[str, Callable[[list[str]], Pairs]] = {"exprl": find_by_numbers}
    if importlib.util.find_spec("datasketch"):
        rivals["datasketch"] = find_by_minhash
    rows = []
    for name, find in rivals.items():
        start = time.process_time()
        pairs = set(find(problems))
        seconds = time.process_time() - start
        extra = {
            "data": arguments.rows.parent.name if arguments.rows else "templates",
            "rows": len(problems),
            "copies": COPIES,
            "copies_found": len(truth & pairs),
            "other_pairs": len(pairs - truth),
        }
        print(name, f"{seconds:.1f} s of one core", extra)
        rows.append(_row.Row(name, [seconds], "s of one core", extra=extra))
    _row.append("near_duplicates", rows, ["datasketch"])


if __name__ == "__main__":
    main()
