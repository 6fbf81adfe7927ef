"""The stories: ten to learn from, five to be tested on."""

from __future__ import annotations

from words import Step, Template

NAMES = ("Tom", "Mia", "Ben", "Ann", "Sam", "Eva", "Max", "Leo", "Jack", "Rosa", "Paul", "Nina")

FOOD = ("apples", "cookies", "plums", "pears", "rolls")
TOYS = ("cards", "coins", "shells", "stamps", "balls")
DESK = ("pens", "books", "cups", "toys")

TRAIN = (
    Template(
        "{name} has {a} {things}, buys {b} and eats {c}. How many are left?",
        FOOD,
        (
            Step("a + b", "After shopping {name} has {calculation} {things}."),
            Step("first - c", "After the meal there are {calculation} {things}."),
        ),
    ),
    Template(
        "{name} has {a} {things}, loses {b} and finds {c}. How many {things} now?",
        TOYS,
        (
            Step("a - b", "After the loss there are {calculation} {things}."),
            Step("first + c", "With those that turn up it is {calculation} {things}."),
        ),
    ),
    Template(
        "{name} has {a} bags of {b} {things} and loses {c}. How many {things} are left?",
        TOYS,
        (
            Step("a * b", "The bags hold {calculation} {things} in all."),
            Step("first - c", "Then {calculation} of them remain."),
        ),
    ),
    Template(
        "{name} picks {a} {things}, {other} picks {b}. They eat {c}. How many are left?",
        FOOD,
        (
            Step("a + b", "They pick {calculation} {things}."),
            Step("first - c", "They keep {calculation} {things}."),
        ),
    ),
    Template(
        "{name} buys {a} boxes of {b} {things} and {c} more. How many {things}?",
        DESK,
        (
            Step("a * b", "In boxes there are {calculation} {things}."),
            Step("first + c", "So the total is {calculation} {things}."),
        ),
    ),
    Template(
        "{name} has {a} {things}. {other} has {b} more. How many do both have?",
        TOYS,
        (
            Step("a + b", "{other} has {calculation} {things}."),
            Step("a + first", "Together they own {calculation} {things}."),
        ),
    ),
    Template(
        "{name} has {a} {things}. {other} has {b} fewer. How many do both have?",
        TOYS,
        (
            Step("a - b", "{other} owns {calculation} {things}."),
            Step("a + first", "The two own {calculation} {things}."),
        ),
    ),
    Template(
        "{name} had {a} {things}, got {b}, then {c}. How many {things} now?",
        DESK,
        (
            Step("a + b", "After the first gift there are {calculation} {things}."),
            Step("first + c", "After the second {calculation} are there."),
        ),
    ),
    Template(
        "A shop has {a} {things}, sells {b}, sells {c} and gets {d}. How many {things} now?",
        DESK,
        (
            Step("a - b", "After the first sale {calculation} {things} are there."),
            Step("first - c", "After the second one {calculation} are there."),
            Step("second + d", "With the new ones it has {calculation} {things}."),
        ),
    ),
    Template(
        "{name} bakes {a} {things}, eats {b}, then bakes {c} and {d}. How many {things} now?",
        ("cakes", "rolls", "pies"),
        (
            Step("a - b", "Not eaten are {calculation} {things}."),
            Step("first + c", "After the second day there are {calculation} {things}."),
            Step("second + d", "After the third one it is {calculation} {things}."),
        ),
    ),
)

TEST = (
    Template(
        "There were {a} {things}. {name} adds {b} and {other} takes {c}. How many are there?",
        FOOD,
        (
            Step("a + b", "At first there are {calculation} {things}."),
            Step("first - c", "In the end there are {calculation} {things}."),
        ),
    ),
    Template(
        "{name} wins {a} {things}, drops {b} and wins {c}. How many {things} in the end?",
        TOYS,
        (
            Step("a - b", "After the mishap {name} owns {calculation} {things}."),
            Step("first + c", "At last it is {calculation} {things}."),
        ),
    ),
    Template(
        "{name} fills {a} shelves with {b} {things} each and has {c} over. How many {things}?",
        DESK,
        (
            Step("a * b", "The shelves hold {calculation} {things}."),
            Step("first + c", "There are {calculation} {things} in all."),
        ),
    ),
    Template(
        "{name} draws {a} {things} a day for {b} days and tears up {c}. How many are left?",
        ("cats", "trees", "boats"),
        (
            Step("a * b", "That makes {calculation} {things}."),
            Step("first - c", "Whole are {calculation} {things}."),
        ),
    ),
    Template(
        "{name} owns {a} {things}, {other} owns {b}. They sell {c} and win {d}. How many now?",
        TOYS,
        (
            Step("a + b", "Together they own {calculation} {things}."),
            Step("first - c", "After the sale it is {calculation} {things}."),
            Step("second + d", "With the prize it is {calculation} {things}."),
        ),
    ),
)
