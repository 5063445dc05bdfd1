"""Made-up definitions, `name = value`: what a text says once and asks for later. Pure, torch-free.

`repeats` puts them into training windows, `bench.far_prompts` others into held-out prompts.
"""

from __future__ import annotations

import random

CONSONANTS, VOWELS = "bcdfghjklmnprstvwz", "aeiou"
SYLLABLES = (2, 4)  # of a name, and of a value that is a word; at least and at most (arbitrary, as the digits)
DIGITS = (3, 6)


def name(draw: random.Random) -> str:
    """A word that means nothing."""
    return "".join(draw.choice(CONSONANTS) + draw.choice(VOWELS) for _ in range(draw.randint(*SYLLABLES)))


def value(draw: random.Random) -> str:
    """A number or another such word: nothing in the name tells which."""
    if draw.random() < 0.5:
        return "".join(draw.choice("0123456789") for _ in range(draw.randint(*DIGITS)))
    return name(draw)


def line(name: str, value: str) -> str:
    """A definition on a line of its own, whatever stands before it."""
    return f"\n{question(name)} {value}\n"


def question(name: str) -> str:
    """What a definition begins with: a value has to follow."""
    return f"{name} ="
