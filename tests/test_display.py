"""Tables of texts as a notebook, a terminal and a pipe show them."""

import io
import sys

import pytest

from noisyrnn.display import html_table, print_table

TITLE, HEAD, ROWS = "runs/a_b", ["test inputs", "accuracy"], [["White noise σ 0.1", "91.2 [88.1, 93.6]"], ["<b>", "1"]]


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_html_escapes_every_text() -> None:
    shown = html_table("<i>", [["<a>", "x & y"]], head=["<h>", "v"], notes=["<script>"])
    assert shown == (
        "<table><caption>&lt;i&gt;</caption><tr><th>&lt;h&gt;</th><th>v</th></tr>"
        "<tr><th>&lt;a&gt;</th><td>x &amp; y</td></tr></table><p>&lt;script&gt;</p>"
    )


def test_a_pipe_gets_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(TITLE, HEAD, ROWS, notes=["A note."])
    assert capsys.readouterr().out == (
        "runs/a\\_b\n\n| test inputs | accuracy |\n|---|---:|\n| White noise σ 0.1 | 91.2 [88.1, 93.6] |\n"
        "| \\<b\\> | 1 |\n\nA note.\n\n"
    )


def test_a_terminal_gets_aligned_columns_of_at_most_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    print_table(TITLE, HEAD, ROWS, notes=["A note."])
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    noise = next(line for line in lines if "White noise" in line)
    assert noise.rstrip().endswith("91.2 [88.1, 93.6]")  # brackets are text, not styles
    assert "|" not in terminal.getvalue()
    assert lines[-1] == "A note."
