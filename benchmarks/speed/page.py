"""The page of a measurement, and its part of the documentation."""

from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from benchmarks.speed.figures import growth, ranking
from benchmarks.speed.tables import Document, tables, threads_of
from noisyrnn.files import write_atomically

DISTURBED = 0.25
"""Cores; threads that wait for one another suffer far more than in proportion."""
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
HEADING = "# Speed\n\nThe part below is written by `python -m benchmarks.step --docs docs/performance.md`.\n\n"


def build_page(document: Document) -> str:
    """One self-contained HTML page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    drawings = []
    for threads in threads_of(document):
        drawings += [Markup(svg) for svg in (ranking(document, threads), growth(document, threads)) if svg]
    return environment.from_string(source).render(
        machine=machine_rows(document),
        command=document["command"],
        note=state(document),
        drawings=drawings,
        tables=tables(document),
    )


def machine_rows(document: Document) -> list[tuple[str, str]]:
    """What the measurement ran on."""
    machine = document["machine"]
    versions = ("python", "noisyrnn", "torch", "numpy", "jax", "torchsde", "triton")
    return [
        ("processor", f"{machine['processor']}, {machine['cores']} cores, {machine['vectors']}"),
        *([("GPU", machine["gpu"])] if machine["gpu"] else []),
        ("memory", f"{machine['memory_gib']} GiB"),
        ("system", ", ".join(filter(None, (machine["system"], machine["compiler"])))),
        ("versions", ", ".join(f"{name} {machine[name]}" for name in versions if machine[name])),
        ("date", document["date"]),
        *([("other processes", disturbance(document))] if disturbance(document) else []),
    ]


def disturbance(document: Document) -> str:
    """A sentence on what other processes did; empty where nothing is known."""
    busy = sorted(entry["others"] for entry in document["cases"] if entry.get("others") is not None)
    if not busy:
        return ""
    text = f"kept {busy[len(busy) // 2]:.2f} cores busy in the median case, {busy[-1]:.2f} at most"
    return text if busy[-1] < DISTURBED else f"{text}: repeat this on an idle machine"


def state(document: Document) -> str:
    """A sentence on how it was measured, and whether it was interrupted."""
    settings = document["settings"]
    text = (
        f"Each contestant is a process of its own; in each of {settings['rounds']} rounds everyone has one turn, in "
        f"random order, after a first run that does not count. A contestant gets some {settings['budget']:g} s a case. "
        "A training step is forward, cross-entropy of the last state's readout and backward, with noise where there is "
        "any; inference has neither noise nor gradient."
    )
    return text if document["complete"] else f"Not all was measured: the run was stopped, or is going on. {text}"


def documentation(document: Document) -> str:
    """The machine, the command and all tables, as Markdown between two markers."""
    facts = "\n".join(f"- {name}: {value}" for name, value in machine_rows(document))
    parts = [facts + "\n", f"```sh\n{document['command']}\n```\n", state(document) + "\n"]
    parts += [table.markdown() for table in tables(document)]
    return f"{BEGIN}\n\n" + "\n".join(parts) + f"\n{END}\n"


def write_documentation(path: Path, document: Document) -> None:
    """Put the measurement into a Markdown file: in place of the last one, or at its end.

    Raises:
        ValueError: If the file has one marker without the other.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else HEADING
    if (BEGIN in text) != (END in text):
        raise ValueError(f"{path.name} must have both markers or none, got one. Restore {BEGIN} and {END}.")
    if BEGIN in text:
        before, _, rest = text.partition(BEGIN)
        text = before + documentation(document) + rest.partition(END)[2].removeprefix("\n")
    else:
        text = text.rstrip("\n") + "\n\n" + documentation(document)
    write_atomically(path, text.encode())
