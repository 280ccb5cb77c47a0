"""Tables of a measurement, as Markdown for the documentation and as rows for the page."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.networks import NETWORKS
from benchmarks.speed.rates import RATES

PEERS = ("lstm", "gru", "rnn", "jax", "compiled", "plain")
Document = dict[str, Any]
Entry = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a header; the first column names the row.

    Args:
        title: Above it.
        note: A sentence on how to read it.
        header: Names of the columns.
        rows: Texts, as many a row as the header has.
        prose: Whether the columns hold sentences, not numbers.
    """

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    prose: bool = False

    def markdown(self) -> str:
        """With its title as a heading of the third level."""
        rule = ["---"] + ["---" if self.prose else "---:"] * (len(self.header) - 1)
        lines = [self.header, rule, *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"### {self.title}\n\n{self.note}\n\n{body}\n"


def tables(document: Document) -> list[Table]:
    """All that the document has figures for."""
    made: list[Table | None] = []
    for threads in threads_of(document):
        made.append(main_table(document, threads))
    for threads in threads_of(document):
        made += [models_table(document, threads, mode) for mode in ("training", "inference")]
    made += [rivals_table(document), before_table(document)]
    for threads in threads_of(document):
        for model in models_of(document):
            made += [growth_table(document, threads, mode, model) for mode in ("training", "inference")]
    made += [stream_table(document), epoch_table(document), missing_table(document)]
    return [table for table in made if table is not None and table.rows]


def threads_of(document: Document) -> list[int]:
    """Numbers of threads, the largest first."""
    return sorted({entry["threads"] for entry in document["cases"]}, reverse=True)


def models_of(document: Document) -> list[str]:
    """Models that were measured, in the order of `NETWORKS`."""
    measured = {entry["model"] for entry in document["cases"]}
    return [model for model in NETWORKS if model in measured]


def find(entries: Iterable[Entry], **wanted: Any) -> Entry | None:
    """The first entry with these values."""
    return next((e for e in entries if all(e.get(key) == value for key, value in wanted.items())), None)


def main_case(document: Document, threads: int, mode: str, model: str = "noisy") -> Entry | None:
    """The case of a model's main size."""
    size = {**document["main"], "hidden": NETWORKS[model].width * document["main"]["hidden"]}
    return find(document["cases"], threads=threads, mode=mode, model=model, **size)


def title_of(document: Document, name: str) -> str:
    """A contestant's name for readers."""
    return document["contestants"].get(name, name)


def seconds_of(entry: Entry | None, name: str) -> float | None:
    """A contestant's median, in seconds."""
    return None if entry is None else entry["results"].get(name, {}).get("median")


def figure(value: float | None, unit: float = 1e-3) -> str:
    """Three digits, in milliseconds unless another unit is given."""
    return "" if value is None else _digits(value / unit)


def _digits(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.1e}"


def _spread(result: Entry) -> str:
    if "median" not in result:
        return "–"
    if result.get("cold"):
        return f"{figure(result['median'])} (one run, the first)"
    return f"{figure(result['median'])} ({figure(result['min'])}–{figure(result['max'])})"


def _ratio(value: float | None, base: float | None) -> str:
    return "" if value is None or not base else f"{value / base:.2f}"


def main_table(document: Document, threads: int) -> Table | None:
    """Everyone at the main size: times, ratios to the plain loop, share of the floor, memory."""
    both = {mode: main_case(document, threads, mode) for mode in ("training", "inference")}
    if not any(both.values()):
        return None
    memory = {m: find(document["memory"], threads=threads, mode=m) for m in both}
    header = [f"{threads} thread{'s' if threads > 1 else ''}"]
    for mode in both:
        header += [f"{mode}, ms", "÷ plain loop", "share of the floor", "MiB"]
    rows = []
    names = [n for n in document["contestants"] if any(e and n in e["results"] for e in both.values())]
    for name in names:
        row = [title_of(document, name)]
        for mode, entry in both.items():
            result = {} if entry is None else entry["results"].get(name, {})
            floor = (entry or {}).get("floor", {})
            mine = result.get("median")
            mib = (memory[mode] or {}).get("results", {}).get(name, {}).get("mib")
            row += [
                _spread(result) if result else "",
                _ratio(mine, seconds_of(entry, "plain")),
                _share(floor, mine) if floor and mine and name.split("-")[0] in document["ours"] else "",
                "" if mib is None else _digits(max(mib, 0.0)),
            ]
        rows.append(row)
    return Table(
        title=f"Everyone at {_size(document['main'])}, {header[0]}",
        note=f"Median (smallest–largest) of the rounds. {_floor_sentence(both)}MiB: peak of one step above the base.",
        header=header,
        rows=rows,
    )


def _share(floor: Entry, mine: float) -> str:
    """Percent of the floor reached: by the rate's median, as times are medians, and by its best."""
    return f"{100 * floor['median'] / mine:.0f} % ({100 * floor['best'] / mine:.0f})"


def _rates_sentence(entry: Entry) -> str:
    """The machine's speeds in a case."""
    speeds = [
        f"{RATES[name].title} {_digits(speed['median'] / 1e9)} GF/s (best {_digits(speed['best'] / 1e9)})"
        for name, speed in entry["rates"].items()
    ]
    return f"In the same rounds: {', '.join(speeds)}. " if speeds else ""


def _floor_sentence(both: dict[str, Entry | None]) -> str:
    """How fast the machine computes, and the time that follows for the steps' products."""
    for entry in both.values():
        if entry and "floor" in entry:
            rate = RATES[entry["floor"]["rate"]].title
            floors = [f"{m} {figure(e['floor']['median'])} ms" for m, e in both.items() if e and "floor" in e]
            return (
                f"{_rates_sentence(entry)}The floor is the time of the steps' products at the rate of {rate}: "
                f"{', '.join(floors)}; in brackets the share by its best. "
            )
    return ""


def _size(size: Entry) -> str:
    return f"T {size['steps']}, batch {size['batch']}, hidden {size['hidden']}"


def models_table(document: Document, threads: int, mode: str) -> Table | None:
    """Every model at its main size and at shorter sequences, and its time over that of other ways to run it."""
    rows = []
    for model in models_of(document):
        for entry in _models_entries(document, threads, mode, model):
            noisy, quiet, held = (seconds_of(entry, name) for name in ("cpp", "cpp-quiet", "cpp-held"))
            best = (s for s in (quiet, noisy) if s is not None)
            mine = next(best, None)
            over = [
                _ratio(seconds_of(entry, "cpp-bf16"), noisy),
                _ratio(noisy, seconds_of(entry, "reference")),
                _ratio(quiet, seconds_of(entry, "reference-quiet")),
                _ratio(noisy, seconds_of(entry, "before")),
                _ratio(quiet, seconds_of(entry, "before-quiet")),
                _ratio(noisy, seconds_of(entry, model)),
                _ratio(quiet, seconds_of(entry, model)),
            ]
            floor = entry.get("floor")
            share = "" if floor is None or mine is None else _share(floor, held or mine)
            title = f"{NETWORKS[model].title}, T {entry['steps']}, hidden {entry['hidden']}"
            rows.append([title, figure(noisy), figure(quiet), share, *over])
    header = [
        "model",
        "ms",
        "no noise, ms",
        "share of the floor",
        "bf16 ÷ float32",
        "÷ plain loop",
        "the same, no noise",
    ]
    header += ["÷ before", "the same, no noise", "÷ torch's own without noise", "no noise ÷ torch's own"]
    used = [k for k in range(len(header)) if any(row[k] for row in rows)]
    return Table(
        title=f"Every model, {mode}, {threads} thread{'s' if threads > 1 else ''}",
        note=f"Medians, batch {document['main']['batch']}. The plain loop is the kernel `reference`. The share of the "
        "floor is that without noise where there is one; that of the exponential RNN without the matrix exponential.",
        header=[header[k] for k in used],
        rows=[[row[k] for k in used] for row in rows],
    )


def _models_entries(document: Document, threads: int, mode: str, model: str) -> list[Entry]:
    """The main size, and the same with other numbers of steps, the longest first."""
    main = main_case(document, threads, mode, model)
    if main is None:
        return []
    fixed = {key: main[key] for key in ("threads", "mode", "model", "batch", "hidden")}
    found = [entry for entry in document["cases"] if fixed.items() <= entry.items()]
    return sorted(found, key=lambda entry: -entry["steps"])


def before_table(document: Document) -> Table | None:
    """Where this version is slowest compared with the one before."""
    rows = []
    for threads in threads_of(document):
        for mode in ("training", "inference"):
            for model in models_of(document):
                place = {"threads": threads, "mode": mode, "model": model}
                entries = [entry for entry in document["cases"] if place.items() <= entry.items()]
                for ours, theirs in (("cpp", "before"), ("cpp-quiet", "before-quiet")):
                    pairs = [(seconds_of(e, ours), seconds_of(e, theirs), e) for e in entries]
                    known = [(mine / before, e) for mine, before, e in pairs if mine and before]
                    if known:
                        worst, entry = max(known, key=lambda pair: pair[0])
                        title = NETWORKS[model].title + (", no noise" if ours == "cpp-quiet" else "")
                        words = [f"{threads}, {mode}", title, f"{worst:.2f}", _size(entry), str(len(known))]
                        rows.append(words)
    return Table(
        title="Compared with the version before",
        note="Our time divided by that of the version before, at the size where this is largest; above 1 it was "
        "faster before.",
        header=["threads, mode", "model", "times as long", "at", "of sizes"],
        rows=rows,
    )


def growth_table(document: Document, threads: int, mode: str, model: str = "noisy") -> Table | None:
    """Milliseconds at every size."""
    place = {"threads": threads, "mode": mode, "model": model}
    entries = [entry for entry in document["cases"] if place.items() <= entry.items()]
    if len(entries) < 2:
        return None
    names = [n for n in document["contestants"] if sum(seconds_of(e, n) is not None for e in entries) > 1]
    entries = sorted(entries, key=lambda e: (e["steps"], e["batch"], e["hidden"]))
    rows = [
        [
            f"{e['steps']}, {e['batch']}, {e['hidden']}",
            *(figure(seconds_of(e, n)) or "–" for n in names),
            figure(e.get("floor", {}).get("median")),
        ]
        for e in entries
    ]
    return Table(
        title=f"Growth, {NETWORKS[model].title}, {mode}, {threads} thread{'s' if threads > 1 else ''}",
        note="Milliseconds, medians.",
        header=["T, batch, hidden", *(title_of(document, n) for n in names), "floor"],
        rows=rows,
    )


def rivals_table(document: Document) -> Table | None:
    """Where each peer comes closest to our fastest kernel, and torch's own networks to our kernel of the same."""
    rows = []
    for threads in threads_of(document):
        for mode in ("training", "inference"):
            for model in models_of(document):
                place = {"threads": threads, "mode": mode, "model": model}
                entries = [entry for entry in document["cases"] if place.items() <= entry.items()]
                for peer in PEERS if model == "noisy" else (model,):
                    rivals = [(e, seconds_of(e, peer), _fastest(document, e)) for e in entries]
                    known = [(p / o, e) for e, p, o in rivals if p is not None and o is not None]
                    if known:
                        lead, entry = min(known, key=lambda pair: pair[0])
                        name = NETWORKS[model].title + ("" if model == "noisy" else ", no noise")
                        words = [f"{threads}, {mode}", name, title_of(document, peer), f"{lead:.2f}", _size(entry)]
                        rows.append(words)
    return Table(
        title="Where the others come closest",
        note="The peer's time divided by that of our fastest kernel (the noisy RNN with noise in training), at the "
        "size where this is smallest; below 1 the peer is faster.",
        header=["threads, mode", "ours", "peer", "times as long", "at"],
        rows=rows,
    )


def _fastest(document: Document, entry: Entry) -> float | None:
    """The median of our fastest kernel in float32 in a case; without noise where the peer has the same model."""
    own = entry["model"] != "noisy" and entry["mode"] == "training"
    names = [f"{name}-quiet" if own else name for name in document["ours"]]
    return min((s for s in (seconds_of(entry, name) for name in names) if s is not None), default=None)


def stream_table(document: Document) -> Table | None:
    """One step of one sequence at a time."""
    rows = []
    for entry in document["stream"]:
        for name, result in entry["results"].items():
            if "median" in result:
                spread = [figure(result[key], 1e-6) for key in ("median", "min", "max")]
                words = [NETWORKS[entry["model"]].title, title_of(document, name), str(entry["threads"])]
                rows.append([*words, f"{spread[0]} ({spread[1]}–{spread[2]})", _before(entry, name, result)])
    return Table(
        title=f"A streamed step (batch 1, hidden {document['main']['hidden']})",
        note="One call from Python, without gradient; for torch's networks, their cell.",
        header=["model", "", "threads", "µs", "÷ before"],
        rows=rows,
    )


def _before(entry: Entry, name: str, result: Entry) -> str:
    """How many times as long as before the kernel takes."""
    return _ratio(result["median"], seconds_of(entry, "before")) if name == "cpp" else ""


def epoch_table(document: Document) -> Table | None:
    """Whole epochs against as many bare steps."""
    rows = [
        [
            f"{e['kernel']}, {e['threads']} threads, {e['sequences']} sequences",
            figure(e["step"]),
            f"{e['steps'] * e['step']:.1f}",
            _range(e["epoch"], lambda s: f"{s:.1f}"),
            f"{e['ratio']:.3f}",
            f"{e['training_ratio']:.3f}",
        ]
        for e in document["epochs"]
        if "ratio" in e
    ]
    return Table(
        title="Epochs of smnist",
        note="`noisyrnn.training.fit` from its call to its return, against steps × the time of a bare step (forward, "
        "loss, backward) measured before and after each; medians of the epochs.",
        header=["kernel", "bare step, ms", "steps × step, s", "epoch, s", "÷ steps × step", "training part only"],
        rows=rows,
    )


def _range(values: Sequence[float], shown: Callable[[float], str]) -> str:
    return shown(values[0]) if len(values) == 1 else f"{shown(min(values))}–{shown(max(values))}"


def missing_table(document: Document) -> Table | None:
    """Who could not take part, and why; each reason once."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for kind in ("cases", "memory", "stream"):
        for entry in document[kind]:
            where = kind.rstrip("s") if kind != "cases" else f"{entry['mode']} {_size(entry)}"
            for name, result in entry["results"].items():
                if "unavailable" in result:
                    reasons.setdefault((title_of(document, name), result["unavailable"]), []).append(where)
    for entry in document["epochs"]:
        if "unavailable" in entry:
            reasons.setdefault((f"epoch, kernel {entry['kernel']}", entry["unavailable"]), []).append("epoch")
    rows = [
        [name, reason, places[0] if len(set(places)) == 1 else f"{len(set(places))} cases"]
        for (name, reason), places in reasons.items()
    ]
    return Table(
        title="Not available", note="Left out, and why.", header=["", "reason", "where"], rows=rows, prose=True
    )
