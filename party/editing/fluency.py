"""How varied a text is: the weighted n-gram entropy that MEMIT calls fluency.

A model that an edit has damaged repeats itself, and its texts lose entropy. About 6.2 bits (620 in
reports, which multiply by 100) are usual for 100 tokens of an intact English model.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

_WEIGHTS = {2: 2 / 3, 3: 4 / 3}
"""By the n of the n-grams (kmeng01/memit, `experiments/py/eval_utils_counterfact.py`)."""

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Split a text into words and single punctuation marks.

    MEMIT takes NLTK's `word_tokenize`, which needs data of its own; it differs in contractions
    ("don't" is two words there and three here) and in runs of punctuation.
    """
    return _WORD.findall(unicodedata.normalize("NFKD", text))


def ngram_entropy(tokens: Sequence[str], n: int) -> float:
    """Entropy of the distribution of a text's n-grams, in bits; 0 for fewer than n tokens."""
    counts = Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values()) + 0.0


def fluency(text: str) -> float:
    """Weighted n-gram entropy in bits: (2/3 H₂ + 4/3 H₃)/2, at least 0."""
    tokens = words(text)
    return fmean(weight * ngram_entropy(tokens, n) for n, weight in _WEIGHTS.items())
