"""The language of a text, by its letters and its commonest words."""

from __future__ import annotations

import re
from collections import Counter

_SAMPLE = 20_000
_SCRIPTS = {
    "ja": re.compile("[\u3040-\u30ff]"),
    "ko": re.compile("[\uac00-\ud7af]"),
    "zh": re.compile("[\u4e00-\u9fff]"),
    "ru": re.compile("[\u0400-\u04ff]"),
    "ar": re.compile("[\u0600-\u06ff]"),
    "he": re.compile("[\u0590-\u05ff]"),
    "el": re.compile("[\u0370-\u03ff]"),
    "hi": re.compile("[\u0900-\u097f]"),
    "th": re.compile("[\u0e00-\u0e7f]"),
}
_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"[^\W\d_]+")
#: Words that are common in one of these languages and rare in the others.
_COMMON = {
    "en": {"the", "of", "and", "to", "is", "that", "for", "with", "be", "this"},
    "de": {"der", "die", "und", "das", "ist", "nicht", "mit", "den", "von", "ein"},
    "fr": {"le", "les", "des", "et", "est", "une", "du", "dans", "pour", "qui"},
    "es": {"el", "los", "las", "y", "del", "una", "que", "para", "con", "por"},
    "it": {"il", "che", "della", "di", "non", "sono", "gli", "nel", "per", "dei"},
    "pt": {"o", "os", "do", "da", "não", "uma", "em", "são", "dos", "ao"},
    "nl": {"het", "een", "van", "niet", "zijn", "voor", "op", "aan", "ook", "deze"},
}


def language(text: str) -> str | None:
    """ISO 639-1 code, None where nothing is clear. Looks at the first 20,000 characters."""
    sample = text[:_SAMPLE]
    letters = len(_LETTER.findall(sample))
    if letters < 20:
        return None
    shares = {code: len(script.findall(sample)) / letters for code, script in _SCRIPTS.items()}
    if shares["ja"] > 0.05:  # Japanese mixes kana with Chinese characters
        return "ja"
    best = max(shares, key=lambda code: shares[code])
    if shares[best] > 0.3:
        return best
    words = Counter(_WORD.findall(sample.lower()))
    counts = {code: sum(words[word] for word in common) for code, common in _COMMON.items()}
    best = max(counts, key=lambda code: counts[code])
    return best if counts[best] > 0.05 * words.total() else None
