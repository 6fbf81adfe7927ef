r"""What a final answer says, once what only dresses it is taken off."""

from __future__ import annotations

import re

LONGEST_ANSWER = 1000
"""Characters; SymPy is not asked about longer ones."""

_TWO_NUMBERS = re.compile(r"(?<=\d)\s+(?=\d)(?!\d{3}(?!\d))")  # but 1 234 is one
_SPACING = re.compile(r"\s+|\\[,;:! ]|\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|~")
_SET_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
)
_MATH_SIGN = re.compile(r"(?<!\\)(?:\$|\\[()\[\]])")
_EMPHASIS = re.compile(
    r"(?<![\w\\)}*])\*{1,3}(?=[^\s*])|(?<=[^\s*])\*{1,3}(?![\w({\\*])|(?<=[:.])\*{1,3}"
    r"|(?<![\w\\])_{1,3}(?=\w)|(?<=[\w.:])_{1,3}(?![\w{])|`+"
)
_STATED = re.compile(
    r"\s*(?:the\s+)?(?:final\s+|correct\s+)*(?:answer|ans)\s*(?:is\b\s*:?|[:=])\s*", re.IGNORECASE
)


def normalize(answer: str) -> str:
    """The text without what only sets it: spaces, dollars, a final full stop."""
    text = _SPACING.sub("", _TWO_NUMBERS.sub(";", answer)).removesuffix(".").strip("$")
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


def drop_emphasis(text: str) -> str:
    """The text without Markdown's signs of emphasis; a product such as `2*3` keeps its star.

    >>> drop_emphasis("**Answer:** 2*x_1"), drop_emphasis("_4_ * `5`")
    ('Answer: 2*x_1', '4 * 5')
    """
    return _EMPHASIS.sub("", text)


def undress(answer: str) -> str:
    r"""The answer without signs around mathematics, commands that set text, and `The answer is`.

    >>> undress(r"\text{The answer is } $18\ \mathrm{dollars}$.")
    '18 dollars'
    """
    text = _SET_TEXT.sub(r" \1 ", _MATH_SIGN.sub("", drop_emphasis(answer)))
    text = re.sub(r"(?<!\\)\\[,;:! ]|~|\\quad|\s+", " ", text)
    text = _STATED.sub("", text, count=1) if _STATED.match(text) else text
    return re.sub(r" +", " ", text).strip().removesuffix(".").strip()


_DOUBT = re.compile(
    r"\b(?:not|never|neither|nor|or|either|wrong|incorrect|cannot|if|unless|maybe|perhaps|possibly"
    r"|probably|impossible|unlikely|rather|else|otherwise|except|but|doubt|guess|think)\b"
    r"|n['\u2019]t\b|\?|!=|<>|[\u2260\u00ac]|\\(?:neq?|not|neg|lnot|lor)(?![a-zA-Z])"
    r"|\\(?:to|rightarrow|Rightarrow|implies|longrightarrow|mapsto)(?![a-zA-Z])"
    r"|\A\s*(?:[<>\u2264\u2265]|\\(?:leq?|geq?|lt|gt|leqslant|geqslant)(?![a-zA-Z]))",
    re.IGNORECASE,
)


def is_doubtful(answer: str) -> bool:
    r"""Whether it denies an answer, names alternatives or a condition, or only bounds it.

    >>> [is_doubtful(x) for x in ("42 or 43", r"\neq 42", "42 if x > 0", r"\{1, 2\}", "x > 3")]
    [True, True, True, False, False]
    """
    return bool(_DOUBT.search(undress(answer)))


_WORDS = re.compile(r"[^\W\d_]{2,}(?:[\s.,'\u2019\-]+[^\W\d_]+)*\W{0,2}")


def read_words(answer: str) -> str | None:
    r"""The words of an answer that is nothing but words, in small letters; else None.

    A word is no product of its letters. One letter is no word, and neither is `xy`: it has no
    vowel.

    >>> read_words(r"\text{No solution}"), read_words("Paris."), read_words("2 apples")
    ('no solution', 'paris', None)
    """
    text = undress(answer)
    if not _WORDS.fullmatch(text) or (text.isascii() and not re.search("[aeiou]", text.lower())):
        return None
    return " ".join(re.findall(r"[^\W\d_]+", text)).casefold()


_SET_UNIT = re.compile(
    r"(?P<head>.*[^\s\\])(?:\s|\\[,;:! ]|~)*"
    rf"{_SET_TEXT.pattern}(?:\s*\^\s*\{{?-?\d\}}?)?[\s.$]*",
    re.DOTALL,
)
_UNIT = re.compile(
    r"(?P<head>.*[\d})%])(?P<unit>\s+[^\W\d_]+(?:[\s/]+[^\W\d_]+){0,4}(?:\s*\^\s*\{?-?\d\}?)?)",
    re.DOTALL,
)
_SHORT_UNITS = frozenset(
    "cm mm km nm kg mg lb lbs oz ft in yd mi ml hr hrs min sec am pm mph km/h".split()  # noqa: SIM905
)
_NO_UNITS = frozenset(
    """
    and which that because since so then as is are was it than minus plus times over divided mod
    modulo pi sin cos tan cot sec csc log exp inf infinity sqrt factorial squared cubed hundred
    thousand million billion trillion dozen half percent more less where with for when see choose
    """.split()  # noqa: SIM905 (a list of 60 lines reads worse)
)


def drop_unit(answer: str) -> str:
    r"""An undressed answer without the words behind its number that name a unit.

    >>> drop_unit("42 apples per day"), drop_unit("42 million"), drop_unit("2 pi")
    ('42', '42 million', '2 pi')
    """
    found = _UNIT.fullmatch(answer) if len(answer) <= LONGEST_ANSWER else None
    if found is None:
        return answer
    words = re.findall(r"[^\W\d_]+", found["unit"].lower())
    named = any(len(w) > 3 or w in _SHORT_UNITS for w in words)
    return found["head"] if named and not _NO_UNITS & set(words) else answer


def _drop_set_unit(answer: str) -> str:
    r"""Without a unit that is set as text: `5\ \text{m/s}`, `5x \text{ dollars}`."""
    found = _SET_UNIT.fullmatch(answer) if len(answer) <= LONGEST_ANSWER else None
    if found is None or not re.search(r"\d", found["head"]):
        return answer
    unit = found[2].strip()
    named = re.fullmatch(r"[^\W\d_]+(?:[\s/.\u00b7]+[^\W\d_]+)*\.?", unit)
    return found["head"] if named and not _NO_UNITS & set(unit.lower().split()) else answer


_COMMAND = re.compile(r"\\(?:begin|end)\s*\{\w+\*?\}|\\[a-zA-Z]+")
_WORD = re.compile(
    r"[^\W\d_]{4,}|\b(?:see|the|fig)\b|[^\W\d_]{3,}(?=[.,]?\s+[^\W\d_]{3,})", re.IGNORECASE
)
_NAMES = frozenset(
    """
    sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan log exp mod max min sup inf lim gcd
    lcm arg det dim ker deg sqrt infty infinity floor ceil frac theta alpha beta gamma delta lambda
    sigma omega binom
    """.split()  # noqa: SIM905
)
_LABEL = re.compile(r"(?:[^\W\d_]+ ){0,2}[^\W\d_]{2,}\s*[=:]\s*(?=\S)")
_JOINTS = re.compile(r"\b(?:and|or|about|approximately|approx|roughly|nearly)\b", re.IGNORECASE)


def read_mathematics(answer: str) -> str | None:
    r"""An answer as math-verify can read it: without a unit and a label; None if it is a sentence.

    >>> read_mathematics("42 apples"), read_mathematics(r"\text{Area} = 42")
    ('42', '42')
    >>> read_mathematics("see figure 3")
    """
    text = drop_unit(undress(_drop_set_unit(answer)))
    label = _LABEL.match(text)
    if label and _has_words(label.group()):
        text = text[label.end() :]
    if len(text) > LONGEST_ANSWER or _has_words(text) or not _is_balanced(text):
        return None
    return text if re.search(r"\w|\\[a-zA-Z]|[\u2200-\u22ff]", text) else None


def _has_words(text: str) -> bool:
    """Whether words stand in it that are no names of mathematics."""
    bare = _JOINTS.sub(" ", _COMMAND.sub(" ", text))
    return any(word.lower() not in _NAMES and not word.isupper() for word in _WORD.findall(bare))


def _is_balanced(text: str) -> bool:
    """Whether every brace that opens is closed."""
    depth = 0
    for brace in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


_BRACES = re.compile(r"\s*\\?\{(.*?)\\?\}\s*", re.DOTALL)
_BORDER = re.compile(r"\\?[()\[\]{}]|\s*(?:[,;\n]|\band\b|\bor\b)\s*")


def split_list(answer: str) -> list[str]:
    r"""The answers that an answer lists; a comma within brackets is no border.

    >>> split_list(r"\{(1,2), (3,4)\}"), split_list("x = 1 or x = 2"), split_list("5")
    (['(1,2)', '(3,4)'], ['x = 1', 'x = 2'], ['5'])
    """
    text = undress(answer)
    inner = _BRACES.fullmatch(text)
    text = inner.group(1) if inner else text
    parts, depth, start = [], 0, 0
    for match in _BORDER.finditer(text):
        token = match.group()
        if token[-1:] in ("(", "[", "{"):
            depth += 1
        elif token[-1:] in (")", "]", "}"):
            depth -= 1
        elif depth <= 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]
