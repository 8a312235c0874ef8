"""Durations as people say them; text from elsewhere (a user's exception, a path) as it may be printed and stored.

A terminal obeys control characters, so text that somebody else wrote could move the cursor, change the window's title
or hide lines. A lone surrogate, which Python makes of a byte that is not UTF-8, cannot be encoded at all.
"""

import re

# All control characters but tab and newline, marks that reverse the direction of writing, and lone surrogates.
_CONTROL = "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f"
_UNPRINTABLE = re.compile(f"[{_CONTROL}\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
UNPRINTABLE_RE2 = f"[{_CONTROL}\\x{{202A}}-\\x{{202E}}\\x{{2066}}-\\x{{2069}}]"  # for pyarrow, which has no surrogates


def printable(text: str) -> str:
    r"""`text` with each unprintable character as its escape, such as `\x1b`."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `1 min 20 s`."""
    if seconds is None:
        return "unknown time"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
