"""Addresses of databases: of a SQLite file, and without the password for messages, files and pages."""

import re
from collections.abc import Sequence
from pathlib import Path

_QUERY = re.compile(r"([?&](?:\w*passw(?:or)?d|pwd|\w*token|\w*secret)=)[^&\s'\"]*", re.IGNORECASE)


def sqlite_url(path: Path) -> str:
    """Return the address of a SQLite file, with the characters `%` and `?` of its path escaped.

    Example:
        >>> sqlite_url(Path("a?b/x%41.db"))
        'sqlite:///a%3Fb/x%2541.db'
    """
    return "sqlite:///" + path.as_posix().replace("%", "%25").replace("?", "%3F")


def without_passwords(text: str) -> str:
    """Replace the user's name and password in every address of a text by `***`.

    Example:
        >>> without_passwords("got 'postgresql://me:p@ss@host/db?password=x&sslmode=require'.")
        "got 'postgresql://***@host/db?password=***&sslmode=require'."
    """
    return _QUERY.sub(r"\1***", re.sub(r"://[^\s'\"<>]*@", "://***@", text))


def hide_passwords(argv: Sequence[str]) -> list[str]:
    """Do the same for the words of a command line, whose addresses may contain blanks and quotes."""
    return [_QUERY.sub(r"\1***", re.sub(r"(?s)://.*@", "://***@", word)) for word in argv]
