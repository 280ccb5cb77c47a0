"""Passwords in addresses are not repeated in messages, files or pages."""

import re
from collections.abc import Sequence

_QUERY = re.compile(r"([?&](?:\w*passw(?:or)?d|pwd|\w*token|\w*secret)=)[^&\s'\"]*", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """A text in which every address has `***` instead of a user's name and password.

    Example:
        >>> without_passwords("got 'postgresql://me:p@ss@host/db?password=x&sslmode=require'.")
        "got 'postgresql://***@host/db?password=***&sslmode=require'."
    """
    return _QUERY.sub(r"\1***", re.sub(r"://[^\s'\"<>]*@", "://***@", text))


def words_without_passwords(words: Sequence[str]) -> list[str]:
    """The same for the words of a command line, whose addresses may hold blanks and quotes."""
    return [_QUERY.sub(r"\1***", re.sub(r"(?s)://.*@", "://***@", word)) for word in words]
