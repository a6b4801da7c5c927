"""Text as XML 1.0 can hold it, and numbers in the shortest form that keeps boxes exact."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape, quoteattr

# XML 1.0 cannot hold these, not even as character references.
FORBIDDEN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
DECIMALS = 4


def is_plain(text: str) -> bool:
    """Return whether XML holds a text as it is.

    Args:
        text: any text.
    """
    return FORBIDDEN.search(text) is None


def to_text(text: str) -> str:
    r"""Return text between tags, escaped; what XML forbids becomes the escape of Python.

    Args:
        text: any text.

    Examples:
        >>> to_text("a <&> b\0")
        'a &lt;&amp;&gt; b\\x00'
    """
    return escape(_replace_forbidden(text), {"\r": "&#13;"})


def to_attribute(text: str) -> str:
    r"""Return the value of an attribute, escaped and in quotes.

    Args:
        text: any text.

    Examples:
        >>> to_attribute("it's")
        '"it\'s"'
    """
    return quoteattr(_replace_forbidden(text))


def to_number(value: float) -> str:
    """Return a number with up to four decimals.

    Args:
        value: a finite number.

    Examples:
        >>> to_number(30.25), to_number(2.0)
        ('30.25', '2')
    """
    return f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".")


def _replace_forbidden(text: str) -> str:
    return FORBIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
