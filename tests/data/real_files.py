"""Files as real tools write them, with the right content of each or the message that it is refused with."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

N, STEPS = 30, 6
KINDS = ("loose", "ok", "worn")
RNG = np.random.default_rng(7)
V = RNG.normal(scale=3, size=(N, STEPS)).round(3)
"""One channel."""
W = RNG.normal(scale=3, size=(N, STEPS, 2)).round(2)
"""Two channels."""
KIND = [KINDS[i % 3] for i in range(N)]
NUMBER = [str(i % 3 + 1) for i in range(N)]
STEP_NAMES = [f"t{k}" for k in range(STEPS)]

Sequences = list[tuple[str, list[list[float]]]]


def one(labels: list[str] = KIND, lengths: list[int] | None = None) -> Sequences:
    """The sequences of one channel, as they must be read."""
    ends = lengths or [STEPS] * N
    return [(label, [[float(v)] for v in row[:end]]) for label, row, end in zip(labels, V, ends, strict=True)]


def two(labels: list[str] = KIND) -> Sequences:
    """The sequences of two channels, as they must be read."""
    return [(label, [[float(v) for v in step] for step in row]) for label, row in zip(labels, W, strict=True)]


@dataclass(frozen=True, kw_only=True)
class RealFile:
    """A file as a tool writes it.

    Args:
        write: Writes it into a folder and returns its path.
        options: With which it is read.
        right: What must be read; `None` if it is refused.
        message: Pattern of the message; it names the option that reads the file.
        dt: Whether the steps have lengths.
        needs: Packages that write it.
    """

    write: Callable[[Path], Path]
    options: dict[str, Any] = field(default_factory=dict)
    right: Sequences | None = None
    message: str = ""
    dt: bool = False
    needs: tuple[str, ...] = ()


def text(name: str, content: str, encoding: str = "utf-8") -> Callable[[Path], Path]:
    """Write a text file."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content.encode(encoding))
        return folder / name

    return write


def lines(rows: list[list[Any]], separator: str = ",", end: str = "\n", decimal: str = ".") -> str:
    """Join cells to lines."""
    plain = [
        [str(cell).replace(".", decimal) if isinstance(cell, float) else str(cell) for cell in row] for row in rows
    ]
    return "".join(separator.join(row) + end for row in plain)


def frame(*, last: list[str] | None = KIND, name: str = "class", values: np.ndarray = V) -> Any:
    """A pandas frame with one sequence per row."""
    import pandas

    data = pandas.DataFrame(values, columns=STEP_NAMES)
    if last is not None:
        data[name] = last
    return data


def from_frame(write: Callable[[Any, Path], Any], name: str, **arguments: Any) -> Callable[[Path], Path]:
    """Write a file with a method of a pandas frame."""

    def make(folder: Path) -> Path:
        write(frame(**arguments), folder / name)
        return folder / name

    return make


def arrays(name: str, **content: Any) -> Callable[[Path], Path]:
    """Write a `.npz` archive, or one `.npy` file for each array."""

    def write(folder: Path) -> Path:
        if name.endswith(".npz"):
            np.savez(folder / name, **content)
        else:
            for key, value in content.items():
                np.save(folder / f"{key}.npy", value)
        return folder / name

    return write


def values_of(row: np.ndarray) -> list[float]:
    return [float(v) for v in row]


ROWS = [[*values_of(row), kind] for row, kind in zip(V, KIND, strict=True)]
NUMBERED = [[number, *values_of(row)] for row, number in zip(V, NUMBER, strict=True)]
LAST = [[*values_of(row), number] for row, number in zip(V, NUMBER, strict=True)]
GERMAN = lines([[*STEP_NAMES, "Klasse"], *ROWS], ";", "\r\n", ",")
LENGTHS = [STEPS - i % 3 for i in range(N)]
SHORT = [[n, *values_of(r[:e]), *["NaN"] * (STEPS - e)] for n, r, e in zip(NUMBER, V, LENGTHS, strict=True)]
UNITS = [["Nr", *STEP_NAMES, "class"], ["-", *["m/s²"] * STEPS, ""], *[[i * i, *row] for i, row in enumerate(ROWS)]]
PREAMBLE = "Logger 3000\r\nSerial 77-A\r\n\r\n" + GERMAN
LONG = [[f"run{i}", k, *values_of(W[i, k]), KIND[i]] for i in range(N) for k in range(STEPS)]
LONG_HEADER = ["run", "time", "x", "y", "class"]
MELTED = [
    [f"r{i}", k / 4, "yx"[1 - c], float(W[i, k, c]), KIND[i]] for k in range(STEPS) for i in range(N) for c in (0, 1)
]
SERIES = lines([[f"x_{k}" for k in range(STEPS)] + [f"y_{k}" for k in range(STEPS)] + ["class"]]) + lines(
    [[*values_of(W[i, :, 0]), *values_of(W[i, :, 1]), KIND[i]] for i in range(N)]
)
SCIENTIFIC = "".join("  " + "  ".join(f"{float(cell):.7e}" for cell in row) + "\n" for row in NUMBERED)
TS = (
    "# made by hand\n@problemName Own\n@timeStamps {stamps}\n@univariate {one}\n@classLabel true loose ok worn\n@data\n"
)
ARFF = "% Weka\n@relation 'own data'\n\n" + "".join(f"@attribute 'att {k}' numeric\n" for k in range(STEPS))
NOMINAL = "@attribute target {loose,ok,worn}\n"
RELATIONAL = (
    "@relation own\n@attribute channels relational\n"
    + "".join(f"@attribute t{k} numeric\n" for k in range(STEPS))
    + "@end channels\n@attribute class {loose,ok,worn}\n@data\n"
    + "".join(
        "'" + "\\n".join(",".join(str(float(v)) for v in W[i, :, c]) for c in (0, 1)) + f"',{KIND[i]}\n"
        for i in range(N)
    )
)
MATLAB = [[f"Var{k}" for k in range(1, STEPS + 2)], *LAST]
STAMPS = [0.0, 1.0, 2.0, 4.0, 5.0, 6.0]


def uea_lines(stamped: bool = False) -> str:
    """Cases of two channels in the `.ts` format."""
    cells = [
        [
            ",".join(f"({STAMPS[k]},{float(W[i, k, c])})" if stamped else str(float(W[i, k, c])) for k in range(STEPS))
            for c in (0, 1)
        ]
        for i in range(N)
    ]
    return "".join(f"{':'.join(channels)}:{kind}\n" for channels, kind in zip(cells, KIND, strict=True))


def zipped(folder: Path) -> Path:
    path = folder / "own.csv.gz"
    path.write_bytes(gzip.compress(lines([[*STEP_NAMES, "class"], *ROWS]).encode()))
    return path


def train_and_test(folder: Path) -> Path:
    """The two files of a UCR data set: the last six sequences are the test part."""
    (folder / "Own_TRAIN.tsv").write_text(lines(NUMBERED[:-6], "\t"))
    (folder / "Own_TEST.tsv").write_text(lines(NUMBERED[-6:], "\t"))
    return folder / "Own_TRAIN.tsv"


def recording(i: int) -> str:
    return lines([["time", "x", "y"], *([k / 100, *values_of(W[i, k])] for k in range(STEPS))])


def by_class(folder: Path) -> Path:
    for i in range(N):
        (folder / "runs" / KIND[i]).mkdir(parents=True, exist_ok=True)
        (folder / "runs" / KIND[i] / f"{i:02}.csv").write_text(recording(i))
    return folder / "runs"


def with_labels(folder: Path) -> Path:
    (folder / "runs").mkdir()
    for i in range(N):
        (folder / "runs" / f"{i:02}.csv").write_text(recording(i))
    rows = [["file", "class", "machine"], *([f"{i:02}.csv", KIND[i], f"m{i % 10}"] for i in reversed(range(N)))]
    (folder / "runs" / "labels.csv").write_text(lines(rows))
    return folder / "runs"


def parts_as_folders(folder: Path) -> Path:
    for part in ("train", "test"):
        (folder / "runs" / part).mkdir(parents=True)
        (folder / "runs" / part / "a.csv").write_text(recording(0))
    return folder / "runs"


def two_sheets(folder: Path) -> Path:
    import pandas

    with pandas.ExcelWriter(folder / "own.xlsx") as writer:
        frame().to_excel(writer, sheet_name="Data", index=False)
        frame(values=-V).to_excel(writer, sheet_name="Old", index=False)
    return folder / "own.xlsx"


def workbook(folder: Path) -> Path:
    """A workbook with a title, a line of units and whole numbers in some cells."""
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    for row in (["Measured in May"], [*STEP_NAMES, "class"], ["mV"] * STEPS, *ROWS):
        sheet.append(row)
    book.save(folder / "own.xlsx")
    return folder / "own.xlsx"


def long_parquet(folder: Path) -> Path:
    import pandas

    data = pandas.DataFrame(LONG, columns=LONG_HEADER)
    data["time"] = pandas.Timestamp("2026-03-01") + pandas.to_timedelta(data["time"], unit="s")
    data.to_parquet(folder / "own.parquet", index=False)
    return folder / "own.parquet"


def savetxt(folder: Path) -> Path:
    np.savetxt(folder / "own.txt", np.array(NUMBERED, dtype=np.float64), header="class and values", fmt="%.18e")
    return folder / "own.txt"


def quoted(rows: list[list[Any]], header: list[str]) -> str:
    """Rows as R's write.csv has them: names of rows, and all text in quotation marks."""
    body = [
        [json.dumps(str(i + 1)), *(json.dumps(c) if isinstance(c, str) else c for c in row)]
        for i, row in enumerate(rows)
    ]
    return lines([[json.dumps(name) for name in ("", *header)], *body])


CHANNELS_FIRST = np.ascontiguousarray(W.transpose(0, 2, 1))
FILES: dict[str, RealFile] = {
    "pandas": RealFile(
        write=from_frame(lambda f, p: f.to_csv(p, index=False), "own.csv"), right=one(), needs=("pandas",)
    ),
    "pandas, no header, class first": RealFile(write=text("own.csv", lines(NUMBERED)), right=one(NUMBER)),
    "pandas, index": RealFile(
        write=from_frame(lambda f, p: f.to_csv(p), "own.csv"), message=r"drop=1 \(--drop 1\)", needs=("pandas",)
    ),
    "pandas, index dropped": RealFile(
        write=from_frame(lambda f, p: f.to_csv(p), "own.csv"), options={"drop": 1}, right=one(), needs=("pandas",)
    ),
    "pandas, class last": RealFile(write=text("own.csv", lines(LAST)), message=r"--label-column NAME or NUMBER"),
    "pandas, class last, option": RealFile(
        write=text("own.csv", lines(LAST)), options={"label_column": -1}, right=one(NUMBER)
    ),
    "pandas, tabs": RealFile(
        write=from_frame(lambda f, p: f.to_csv(p, sep="\t", index=False), "own.tsv"), right=one(), needs=("pandas",)
    ),
    "pandas, missing cell": RealFile(
        write=text(
            "own.csv", lines([[*STEP_NAMES, "class"], *ROWS[:4], [1.5, "", 2.5, 1.0, 1.0, 1.0, "ok"], *ROWS[5:]])
        ),
        message=r"^Line 6 of .* got '' in column 2\. Give missing='hold' .* fill the value in",
    ),
    "pandas, gzip": RealFile(write=zipped, right=one()),
    "pandas, two channels": RealFile(
        write=text("own.csv", SERIES), message=r"layout='time-last' \(--layout time-last\)"
    ),
    "pandas, two channels, option": RealFile(
        write=text("own.csv", SERIES), options={"layout": "time-last"}, right=two()
    ),
    "pandas, patients": RealFile(
        write=text(
            "own.csv", lines([["patient", *STEP_NAMES, "class"], *([f"p{i // 3}", *r] for i, r in enumerate(ROWS))])
        ),
        options={"group_column": "patient"},
        right=one(),
    ),
    "pandas, patients with gaps": RealFile(
        write=text(
            "own.csv",
            lines(
                [
                    ["patient", *STEP_NAMES, "class"],
                    *(["NA" if i in (3, 4) else i // 2, *r] for i, r in enumerate(ROWS)),
                ]
            ),
        ),
        options={"group_column": "patient"},
        message=r"^Line 5 of .* must name a group, got 'NA', .* skip_lines='5-6' \(--skip-lines 5-6\)",
    ),
    "pandas, patients with gaps, option": RealFile(
        write=text(
            "own.csv",
            lines(
                [
                    ["patient", *STEP_NAMES, "class"],
                    *(["NA" if i in (3, 4) else i // 3, *r] for i, r in enumerate(ROWS)),
                ]
            ),
        ),
        options={"group_column": "patient", "skip_lines": "5-6"},
        right=[sequence for i, sequence in enumerate(one()) if i not in (3, 4)],
    ),
    "R, missing classes": RealFile(
        write=text(
            "own.csv", lines([[*STEP_NAMES, "class"], *([*r[:-1], "NA"] if i == 2 else r for i, r in enumerate(ROWS))])
        ),
        message=r"^Line 4 of .* must name a class, got 'NA', .* skip_lines='4'",
    ),
    "long, missing id": RealFile(
        write=text("own.csv", lines([LONG_HEADER, *(["nan" if r[0] == "run4" else r[0], *r[1:]] for r in LONG)])),
        options={"id": "run", "time": "time"},
        message=r"^Line 26 of .* must name a sequence, got 'nan', .* skip_lines='26-31'",
    ),
    "long, German dates": RealFile(
        write=text(
            "own.csv",
            lines(
                [
                    LONG_HEADER,
                    *(
                        [r[0], f"28.02.2026 23:59:{57 + r[1]}" if r[1] < 3 else f"01.03.2026 00:00:0{r[1] - 3}", *r[2:]]
                        for r in LONG
                    ),
                ],
                ";",
            ),
        ),
        options={"id": "run", "time": "time"},
        right=two(),
    ),
    "long, American dates": RealFile(
        write=text(
            "own.csv",
            lines(
                [
                    LONG_HEADER,
                    *(
                        [
                            r[0],
                            f"02/28/2026 11:59:{57 + r[1]} PM" if r[1] < 3 else f"03/01/2026 12:00:0{r[1] - 3} AM",
                            *r[2:],
                        ]
                        for r in LONG
                    ),
                ]
            ),
        ),
        options={"id": "run", "time": "time"},
        right=two(),
    ),
    "long, dates with two readings": RealFile(
        write=text("own.csv", lines([LONG_HEADER, *([r[0], f"0{r[1] + 1}/01/2026", *r[2:]] for r in LONG)])),
        options={"id": "run", "time": "time"},
        message=r"time_format='%d/%m/%Y' \(--time-format '%d/%m/%Y'\) or time_format='%m/%d/%Y'",
    ),
    "long, dates with two readings, option": RealFile(
        write=text("own.csv", lines([LONG_HEADER, *([r[0], f"0{r[1] + 1}/01/2026", *r[2:]] for r in LONG)])),
        options={"id": "run", "time": "time", "time_format": "%d/%m/%Y"},
        right=two(),
    ),
    "long, dates as numbers": RealFile(
        write=text(
            "own.csv",
            lines(
                [
                    LONG_HEADER,
                    *([r[0], (20260226, 20260227, 20260228, 20260301, 20260302, 20260303)[r[1]], *r[2:]] for r in LONG),
                ]
            ),
        ),
        options={"id": "run", "time": "time"},
        right=two(),
    ),
    "pandas, patients, no option": RealFile(
        write=text("own.csv", lines([["patient", *STEP_NAMES, "class"], *([i // 3, *r] for i, r in enumerate(ROWS))])),
        message=r"got a column 'patient'\. Leave it out with drop='patient' \(--drop patient\)",
    ),
    "Excel, German": RealFile(
        write=text("own.csv", GERMAN, "utf-8-sig"), options={"label_column": "Klasse"}, right=one()
    ),
    "Excel, German, class not named": RealFile(
        write=text("own.csv", GERMAN, "utf-8-sig"), message=r"label_column='Klasse' \(--label-column Klasse\)"
    ),
    "Excel, sep=": RealFile(write=text("own.csv", "sep=;\r\n" + GERMAN), options={"label_column": -1}, right=one()),
    "Excel, Unicode text": RealFile(
        write=text("own.txt", lines([[*STEP_NAMES, "class"], *ROWS], "\t", "\r\n", ","), "utf-16"), right=one()
    ),
    "Excel, German without header": RealFile(
        write=text(
            "own.csv", lines([[kind, *row[:-1]] for row, kind in zip(ROWS, KIND, strict=True)], ";", "\r\n", ",")
        ),
        message=r"separator=';' \(--separator ';'\) and decimal=',' \(--decimal ','\)",
    ),
    "Excel, German without header, options": RealFile(
        write=text(
            "own.csv", lines([[kind, *row[:-1]] for row, kind in zip(ROWS, KIND, strict=True)], ";", "\r\n", ",")
        ),
        options={"separator": ";", "decimal": ","},
        right=one(),
    ),
    "workbook": RealFile(
        write=from_frame(lambda f, p: f.to_excel(p, index=False), "own.xlsx"), right=one(), needs=("pandas", "openpyxl")
    ),
    "workbook, two sheets": RealFile(
        write=two_sheets, message=r"got 2: 'Data', 'Old'\. Give sheet \(--sheet", needs=("pandas", "openpyxl")
    ),
    "workbook, sheet": RealFile(write=two_sheets, options={"sheet": "Data"}, right=one(), needs=("pandas", "openpyxl")),
    "workbook, title and units": RealFile(
        write=workbook, options={"skip_lines": "1,3"}, right=one(), needs=("pandas", "openpyxl")
    ),
    "workbook, units": RealFile(
        write=workbook, options={"skip_lines": 1}, message=r"^Row 3 .*skip_lines='3'", needs=("pandas", "openpyxl")
    ),
    "parquet": RealFile(
        write=from_frame(lambda f, p: f.to_parquet(p), "own.parquet"), right=one(), needs=("pandas", "pyarrow")
    ),
    "parquet, long": RealFile(
        write=long_parquet, options={"id": "run", "time": "time"}, right=two(), needs=("pandas", "pyarrow")
    ),
    "long": RealFile(
        write=text("own.csv", lines([LONG_HEADER, *LONG])), options={"id": "run", "time": "time"}, right=two()
    ),
    "long, shuffled": RealFile(
        write=text("own.csv", lines([LONG_HEADER, *[LONG[i] for i in RNG.permutation(len(LONG))]])),
        options={"id": 1, "time": 2},
        right=two(),
    ),
    "long, no time": RealFile(
        write=text("own.csv", lines([LONG_HEADER, *LONG])),
        options={"id": "run"},
        message=r"time='time' \(--time time\)",
    ),
    "long, no id": RealFile(write=text("own.csv", lines([LONG_HEADER, *LONG])), message=r"give id \(--id COLUMN\)"),
    "long, one value per line": RealFile(
        write=text("own.csv", lines([["id", "t", "name", "v", "label"], *MELTED])),
        options={"id": "id", "time": "t", "channel": "name", "value": "v"},
        right=two(),
    ),
    "logger, preamble": RealFile(
        write=text("own.csv", PREAMBLE), options={"label_column": -1}, message=r"skip_lines='1-2' \(--skip-lines 1-2\)"
    ),
    "logger, preamble skipped": RealFile(
        write=text("own.csv", PREAMBLE), options={"label_column": -1, "skip_lines": "1-3"}, right=one()
    ),
    "logger, units": RealFile(
        write=text("own.csv", lines(UNITS, ";")), options={"drop": "Nr"}, message=r"skip_lines='2' \(--skip-lines 2\)"
    ),
    "logger, units skipped": RealFile(
        write=text("own.csv", lines(UNITS, ";")), options={"drop": "Nr", "skip_lines": 2}, right=one()
    ),
    "logger, Windows-1252": RealFile(
        write=text("own.csv", lines([[*(f"T{k} °C" for k in range(STEPS)), "class"], *ROWS], ";"), "cp1252"),
        message=r"encoding='cp1252' \(--encoding cp1252\)",
    ),
    "logger, Windows-1252, option": RealFile(
        write=text("own.csv", lines([[*(f"T{k} °C" for k in range(STEPS)), "class"], *ROWS], ";"), "cp1252"),
        options={"encoding": "cp1252"},
        right=one(),
    ),
    "logger, separator at the end": RealFile(
        write=text("own.csv", lines([[*STEP_NAMES, "class", ""], *([*row, ""] for row in ROWS)], ";")), right=one()
    ),
    "logger, thousands or decimals": RealFile(
        write=text("own.csv", lines([["a", "1,234", "2,345"], ["b", "3,456", "4,567"]] * 6, ";")),
        message=r"^.*separator=';' \(--separator ';'\) and decimal=','",
    ),
    "logger, thousands or decimals, separator": RealFile(
        write=text("own.csv", lines([["a", "1,234", "2,345"], ["b", "3,456", "4,567"]] * 6, ";")),
        options={"separator": ";"},
        message=r"^Line 1 .* got '1,234'\. .*decimal=',' \(--decimal ','\)",
    ),
    "R, row names": RealFile(
        write=text("own.csv", quoted(ROWS, [*STEP_NAMES, "class"])), message=r"drop=1 \(--drop 1\)"
    ),
    "R, row names dropped": RealFile(
        write=text("own.csv", quoted(ROWS, [*STEP_NAMES, "class"])), options={"drop": 1}, right=one()
    ),
    "UCR, tsv": RealFile(write=text("Own.tsv", lines(SHORT, "\t")), right=one(NUMBER, LENGTHS)),
    "UCR, two files": RealFile(write=train_and_test, right=one(NUMBER)),
    "UCR, txt of 2015": RealFile(write=text("Own.txt", lines(NUMBERED)), right=one(NUMBER)),
    "UCR, txt of 2018": RealFile(
        write=text("Own.txt", SCIENTIFIC), right=one([f"{float(number):.7e}" for number in NUMBER])
    ),
    "UEA, ts": RealFile(write=text("Own.ts", TS.format(stamps="false", one="false") + uea_lines()), right=two()),
    "UEA, ts with times": RealFile(
        write=text("Own.ts", TS.format(stamps="true", one="false") + uea_lines(True)), right=two(), dt=True
    ),
    "UEA, ts with missing values": RealFile(
        write=text("Own.ts", TS.format(stamps="false", one="true") + "1,?,3:ok\n" * 4),
        message=r"^Line 7 of .* must hold no missing values, got '\?'",
    ),
    "UEA, arff": RealFile(write=text("Own.arff", RELATIONAL), right=two()),
    "Weka": RealFile(write=text("own.arff", ARFF + NOMINAL + "@data\n" + lines(ROWS)), right=one()),
    "Weka, two nominal attributes": RealFile(
        write=text(
            "own.arff",
            "@relation r\n@attribute sex {f,m}\n"
            + ARFF.split("\n\n")[1]
            + NOMINAL.replace("target", "kind")
            + "@data\n"
            + lines([["fm"[i % 2], *row] for i, row in enumerate(ROWS)]),
        ),
        message=r"got 2\. Give label_column \(--label-column\)",
    ),
    "Weka, two nominal attributes, options": RealFile(
        write=text(
            "own.arff",
            "@relation r\n@attribute sex {f,m}\n"
            + ARFF.split("\n\n")[1]
            + NOMINAL.replace("target", "kind")
            + "@data\n"
            + lines([["fm"[i % 2], *row] for i, row in enumerate(ROWS)]),
        ),
        options={"label_column": "kind", "drop": "sex"},
        right=one(),
    ),
    "Weka, sparse": RealFile(
        write=text("own.arff", ARFF + NOMINAL + "@data\n{0 1.5, 6 ok}\n"), message=r"SparseToNonSparse or save"
    ),
    "MATLAB, writematrix": RealFile(write=text("own.csv", lines(NUMBERED)), right=one(NUMBER)),
    "MATLAB, writetable": RealFile(write=text("own.csv", lines(MATLAB)), message=r"--label-column NAME or NUMBER"),
    "MATLAB, writetable, option": RealFile(
        write=text("own.csv", lines(MATLAB)), options={"label_column": "Var7"}, right=one(NUMBER)
    ),
    "NumPy, savetxt": RealFile(write=savetxt, right=one([f"{float(number):.18e}" for number in NUMBER])),
    "NumPy, savetxt with a header": RealFile(
        write=text("own.csv", "# " + lines([[*STEP_NAMES, "class"], *LAST])), right=one(NUMBER)
    ),
    "NumPy, savetxt with the header of two channels": RealFile(
        write=text("own.csv", "# " + SERIES), message=r"layout='time-last' \(--layout time-last\)"
    ),
    "MATLAB, arrays": RealFile(
        write=arrays(
            "own.npz",
            XTrain=CHANNELS_FIRST[:-6],
            YTrain=np.array(NUMBER)[:-6, None],
            XTest=CHANNELS_FIRST[-6:],
            YTest=np.array(NUMBER)[-6:, None],
        ),
        options={"layout": "time-last"},
        right=two(NUMBER),
    ),
    "MATLAB, column names of numbers": RealFile(
        write=text("own.csv", lines([list(range(1, STEPS + 2)), *NUMBERED])), message=r"header=True \(--header true\)"
    ),
    "MATLAB, column names of numbers, option": RealFile(
        write=text("own.csv", lines([list(range(1, STEPS + 2)), *NUMBERED])),
        options={"header": True},
        right=one(NUMBER),
    ),
    "Keras, one-hot": RealFile(
        write=arrays("own.npz", X=V, y=np.eye(STEPS)[np.arange(N) % STEPS]), message=r"y\.argmax\(axis=1\)"
    ),
    "Keras": RealFile(
        write=arrays("own.npz", x_train=V[:-6], y_train=KIND[:-6], x_test=V[-6:], y_test=KIND[-6:]), right=one()
    ),
    "aeon": RealFile(write=arrays("own.npz", X=CHANNELS_FIRST, y=KIND), options={"layout": "time-last"}, right=two()),
    "aeon, no option": RealFile(
        write=arrays("own.npz", X=CHANNELS_FIRST, y=KIND), message=r"layout='time-last' \(--layout time-last\)"
    ),
    "NumPy, all and a training part": RealFile(
        write=arrays("own.npz", X=V, y=KIND, X_train=V[:9], y_train=KIND[:9]),
        message=r"must hold X or X_train, got both",
    ),
    "npy, two files": RealFile(write=arrays("X.npy", X=W, y=np.array(KIND)), right=two()),
    "npy, four files": RealFile(
        write=arrays("X_train.npy", X_train=W[:-6], y_train=KIND[:-6], X_test=W[-6:], y_test=KIND[-6:]), right=two()
    ),
    "folder": RealFile(write=by_class, message=r"time='time' \(--time time\), or drop='time' \(--drop time\)"),
    "folder, time": RealFile(write=by_class, options={"time": "time"}, right=two()),
    "folder, no time": RealFile(write=by_class, options={"drop": "time"}, right=two()),
    "folder, labels": RealFile(
        write=with_labels, options={"time": 1, "group_column": "machine", "label_column": "class"}, right=two()
    ),
    "folder, parts": RealFile(write=parts_as_folders, message=r"one subfolder for each class, got 'test', as a part"),
}
