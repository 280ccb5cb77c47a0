"""The main job."""

import importlib
import json
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisyrnn.analysis import AnalysisSettings
from noisyrnn.data import load_dataset
from noisyrnn.data.split import tensor_digest
from noisyrnn.files import WriteError
from noisyrnn.locks import InUseError, locked
from noisyrnn.pipeline import AnalyzeConfig, CompareConfig, EvaluateConfig, RunContext, compare
from noisyrnn.pipeline.train import run_path
from noisyrnn.training import TrainConfig, fit_seeds

EVALUATION = EvaluateConfig(strengths={"white_noise": [0.5]}, draws=2)


def settings(waves_file: Path, **changes: Any) -> dict[str, Any]:
    train = {"dataset": str(waves_file), "hidden_size": 4, "epochs": 2, "batch_size": 16, **changes}
    return {"models": ["noisy", "lstm"], "seeds": 2, "train": train, "evaluation": EVALUATION}


def results(output: Path) -> dict[str, bytes]:
    """All that must not depend on how the runs were spread: everything but times."""
    found = {}
    for path in sorted(output.glob("*/*")):
        if path.name in ("robustness.json", "model.safetensors"):
            found[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    return found


def test_it_trains_evaluates_and_reports(waves_file: Path, tmp_path: Path) -> None:
    page, failures = compare(
        CompareConfig(**settings(waves_file)), RunContext(output=tmp_path / "out"), command="noisyrnn compare"
    )
    assert failures == {}
    assert page == (tmp_path / "out" / "report.html").resolve()
    assert len(results(tmp_path / "out")) == 8
    assert {"report.html", "table.md", "comparison.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    table = (tmp_path / "out" / "table.md").read_text()
    assert "noisy" in table
    assert "lstm" in table


def test_it_analyses_where_that_is_asked_for(waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = AnalyzeConfig(settings=AnalysisSettings(test_sequences=4), diagnostics=["margins", "jacobians"])
    monkeypatch.setattr(sys.modules["noisyrnn.pipeline.compare"], "AnalyzeConfig", lambda: quick)
    compare(CompareConfig(**settings(waves_file)), RunContext(output=tmp_path / "without"))
    assert not list(tmp_path.glob("without/*/analysis.json"))
    compare(CompareConfig(**settings(waves_file), analyze=True), RunContext(output=tmp_path / "with"))
    assert len(list(tmp_path.glob("with/*/analysis.json"))) == 4
    assert "Output margin" in (tmp_path / "with" / "analysis.md").read_text()


def test_what_cannot_be_analysed_is_refused_before_any_training(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(40, 6, 1))
    X[3, 2] = np.nan
    np.savez(tmp_path / "gaps.npz", X=X, y=np.arange(40) % 2)
    config = CompareConfig(**settings(tmp_path / "gaps.npz", missing="hold"), analyze=True)
    with pytest.raises(ValueError, match=r"^dataset must have missing None for the theory diagnostics, got 'hold'"):
        compare(config, RunContext(output=tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*/*"))


def test_finished_runs_are_used_again(waves_file: Path, tmp_path: Path) -> None:
    compare(CompareConfig(**settings(waves_file)), RunContext(output=tmp_path))
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    compare(CompareConfig(**settings(waves_file)), RunContext(output=tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")} == stamps


def test_the_data_are_read_and_hashed_once(waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"read": 0, "hashed": 0}
    values = []

    def read(*names: Any, **options: Any) -> Any:
        counts["read"] += 1
        data = load_dataset(*names, **options)
        values.append(sum(part.inputs.numel() for part in (data.train, data.validation, data.test)))
        return data

    def digest(tensor: Any) -> str | None:
        counts["hashed"] += tensor.numel() if tensor is not None and tensor.is_floating_point() else 0
        return tensor_digest(tensor)

    monkeypatch.setattr("noisyrnn.pipeline.context.load_dataset", read)
    monkeypatch.setattr("noisyrnn.data.split.tensor_digest", digest)
    compare(CompareConfig(**settings(waves_file, epochs=1)), RunContext(output=tmp_path))
    # When each stage read for itself, these were 9 readings and ten times as many values.
    assert counts == {"read": 1, "hashed": values[0]}
    compare(CompareConfig(**settings(waves_file, epochs=1)), RunContext(output=tmp_path))
    assert counts == {"read": 2, "hashed": 2 * values[0]}  # a file may have changed between two comparisons


def test_a_copy_of_a_context_reads_for_itself(waves_file: Path) -> None:
    config, context = TrainConfig(dataset=str(waves_file)), RunContext()
    assert context.read_data(config) is context.read_data(config)
    assert context.read_data(config) is not context.read_data(replace(config, layout="channels-last"))
    assert len(pickle.dumps(context)) < 500
    assert pickle.loads(pickle.dumps(context)).read_data(config) is not context.read_data(config)


def test_a_failed_run_is_shown_and_stops_no_other(waves_file: Path, tmp_path: Path) -> None:
    wild = settings(waves_file, step_size=1e30, learn_step=False, damping=1.0)
    page, failures = compare(CompareConfig(**wild), RunContext(output=tmp_path))
    assert len(failures) == 2
    assert all("hidden state became non-finite" in sentence for sentence in failures.values())
    assert "hidden state became non-finite" in page.read_text()
    statuses = [json.loads(path.read_text())["status"] for path in tmp_path.glob("*/summary.json")]
    assert sorted(statuses) == ["failed", "failed", "finished", "finished"]


def test_two_workers_give_the_same_results_as_one(
    waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 4)
    # At this size torch's sums and products differ between one thread and two.
    config = settings(waves_file, hidden_size=19, batch_size=100)
    compare(CompareConfig(**config), RunContext(output=tmp_path / "one"))
    compare(CompareConfig(**config, workers=2), RunContext(output=tmp_path / "two"))
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    assert len(one) == 8
    assert one == two


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_seeds_together_give_the_same_results(
    waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    # Heun's scheme runs on the reference loop, whose bits are the same; workers left over from another test do not see
    # a change of environment.
    both = {**settings(waves_file, additive=0.1, scheme="stochastic-heun"), "models": ["noisy", "antisymmetric"]}
    compare(CompareConfig(**both), RunContext(output=tmp_path / "alone"))
    module = sys.modules["noisyrnn.pipeline.seeds"]
    calls: list[list[tuple[str, int]]] = []

    def spy(models: Any, dataset: Any, configs: list[TrainConfig], **options: Any) -> Any:
        calls.append([(config.model, config.seed) for config in configs])
        return fit_seeds(models, dataset, configs, **options)

    monkeypatch.setattr(module, "fit_seeds", spy)
    config = CompareConfig(**both, workers=workers, batch_seeds=True)
    _, failures = compare(config, RunContext(output=tmp_path / "batch_seeds"))
    assert failures == {}
    if workers == 1:  # other workers' calls are not seen from here
        assert calls == [[("noisy", 1), ("noisy", 2)], [("antisymmetric", 1), ("antisymmetric", 2)]]
    assert len(results(tmp_path / "alone")) == 8
    assert results(tmp_path / "batch_seeds") == results(tmp_path / "alone")


def test_a_model_that_diverges_together_stops_no_other(
    waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "reference")
    wild = settings(waves_file, step_size=1e30, learn_step=False, damping=1.0)
    _, failures = compare(CompareConfig(**wild, batch_seeds=True), RunContext(output=tmp_path))
    assert len(failures) == 2
    assert all("hidden state became non-finite" in sentence for sentence in failures.values())
    statuses = [json.loads(path.read_text())["status"] for path in tmp_path.glob("*/summary.json")]
    assert sorted(statuses) == ["failed", "failed", "finished", "finished"]


def test_runs_that_cannot_be_trained_together_follow_one_another(
    waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "reference")
    config = CompareConfig(**settings(waves_file), batch_seeds=True)
    compare(config, RunContext(output=tmp_path))
    expected = results(tmp_path)
    damaged = next(tmp_path.glob("*noisy-seed1*"))
    for run in tmp_path.glob("*noisy*"):
        for name in ("summary.json", "robustness.json"):
            (run / name).unlink()
    (damaged / "checkpoint.pt").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"The runs of noisy could not be trained together and follow one another: "):
        _, failures = compare(config, RunContext(output=tmp_path))
    assert list(failures) == [damaged]
    assert "checkpoint must be whole" in failures[damaged]
    found = results(tmp_path)
    assert found == {name: content for name, content in expected.items() if name in found}
    assert len(found) == 7


def test_workers_share_the_cores_out(waves_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    assert CompareConfig(**settings(waves_file), workers=3).threads == 2
    assert CompareConfig(**settings(waves_file), workers=20).threads == 1
    assert CompareConfig(**settings(waves_file), backend="dask", scheduler="tcp://here").threads == 1


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="the Dask back end needs the package distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=tmp_path
    ) as cluster:
        yield cluster.scheduler_address


@pytest.mark.slow
def test_dask_workers_give_the_same_results(waves_file: Path, tmp_path: Path, scheduler: str) -> None:
    compare(CompareConfig(**settings(waves_file)), RunContext(output=tmp_path / "here"))
    dask = CompareConfig(**settings(waves_file), backend="dask", scheduler=scheduler)
    _, failures = compare(dask, RunContext(output=tmp_path / "there"))
    assert failures == {}
    assert results(tmp_path / "there") == results(tmp_path / "here")


@pytest.mark.slow
def test_a_lost_scheduler_leaves_a_report_of_the_runs_that_have_ended(waves_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the Dask back end needs the package distributed")
    address = tmp_path / "scheduler.json"
    program = "import sys; from distributed.cli import dask_{0} as d; sys.argv[0] = 'dask-{0}'; d.main()"
    started = []

    def start(part: str, *options: str) -> None:
        words = [sys.executable, "-c", program.format(part), "--scheduler-file", str(address), *options]
        started.append(subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def lose() -> None:
        """Kill the scheduler in the second run, which begins when the first is reported."""
        while len(list(tmp_path.glob("out/*/metrics.csv"))) < 2:
            time.sleep(0.01)
        started[0].kill()

    try:
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
        while not address.is_file():
            assert started[0].poll() is None
            time.sleep(0.1)
        start("worker", "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path))
        threading.Thread(target=lose, daemon=True).start()
        scheduler = json.loads(address.read_text())["address"]
        long = settings(waves_file, epochs=150)
        page, failures = compare(
            CompareConfig(**long, backend="dask", scheduler=scheduler), RunContext(output=tmp_path / "out")
        )
    finally:
        for process in started[::-1]:
            process.kill()
            process.wait()
    assert 1 <= len(failures) <= 3
    assert {path.name.split("-seed")[0] for path in failures} <= {"waves-noisy", "waves-lstm"}
    assert all("The Dask scheduler was lost before the run ended. Start it" in text for text in failures.values())
    ended = [path for path in tmp_path.glob("out/*/robustness.json") if path.parent not in failures]
    assert ended and page.is_file()
    assert "The Dask scheduler was lost" in page.read_text()


@pytest.mark.slow
def test_a_worker_that_dies_takes_no_other_run_with_it(
    waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text(
        "import os, signal\n"
        "from noisyrnn.pipeline.execution import run_group\n"
        "def deadly(group):\n"
        "    if group.configs[0].model == 'lstm':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return run_group(group)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        sys.modules["noisyrnn.pipeline.execution"], "run_group", importlib.import_module("deadly").deadly
    )
    page, failures = compare(CompareConfig(**settings(waves_file), workers=2), RunContext(output=tmp_path / "out"))
    died = "The worker process died before the run ended; it may have run out of memory."
    assert sorted(path.name.split("-")[1] for path in failures) == ["lstm", "lstm"]
    assert set(failures.values()) == {died}
    assert died in page.read_text()
    statuses = {
        p.parent.name.split("-")[1]: json.loads(p.read_text())["status"] for p in tmp_path.glob("out/*/summary.json")
    }
    assert statuses == {"noisy": "finished", "lstm": "failed"}
    assert len(list(tmp_path.glob("out/*noisy*/robustness.json"))) == 2


def test_an_evaluation_that_fails_leaves_the_trained_run_whole(
    waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["noisyrnn.pipeline.execution"]

    def fail(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("logits became non-finite")

    with monkeypatch.context() as changed:
        changed.setattr(module, "evaluate_run", fail)
        page, failures = compare(CompareConfig(**settings(waves_file)), RunContext(output=tmp_path))
    assert set(failures.values()) == {"logits became non-finite"}
    assert len(failures) == 4
    assert "logits became non-finite" in page.read_text()
    summaries = [json.loads(path.read_text()) for path in tmp_path.glob("*/summary.json")]
    assert [summary["status"] for summary in summaries] == ["finished"] * 4
    _, failures = compare(CompareConfig(**settings(waves_file)), RunContext(output=tmp_path))
    assert failures == {}


def test_runs_on_other_data_are_refused_before_any_work(waves_file: Path, tmp_path: Path) -> None:
    compare(CompareConfig(**settings(waves_file)), RunContext(output=tmp_path / "out"))
    content = dict(np.load(waves_file))
    np.savez(waves_file, X=content["X"] + 1, y=content["y"])
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*")}
    with pytest.raises(
        ValueError,
        match=r"dataset must hold the data that .*seed1-\w+ was trained on, got .*the inputs of the training part",
    ):
        compare(CompareConfig(**settings(waves_file)), RunContext(output=tmp_path / "out"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*")} == stamps


def test_runs_that_cannot_be_read_are_named_and_the_others_reported(waves_file: Path, tmp_path: Path) -> None:
    config = CompareConfig(**settings(waves_file))
    page, _ = compare(config, RunContext(output=tmp_path))
    table = json.loads((tmp_path / "comparison.json").read_text())
    runs = sorted(tmp_path.glob("*-seed*"))
    (runs[0] / "config.json").write_text("{}")
    (runs[1] / "summary.json").unlink()
    (runs[1] / "summary.json").mkdir()
    damaged = bytearray((runs[2] / "robustness.json").read_bytes())
    damaged[len(damaged) // 2] ^= 4
    (runs[2] / "robustness.json").write_bytes(damaged)
    page, failures = compare(config, RunContext(output=tmp_path))
    causes = ("config.json must be of format", "summary.json must be a file", "robustness.json must be")
    assert sorted(failures) == runs[:3]
    for run, cause in zip(runs, causes, strict=False):
        assert f"{run / cause.split()[0]} must" in failures[run] and cause in failures[run]
        assert cause in page.read_text() and run.name in page.read_text()
    assert (runs[0] / "config.json").read_text() == "{}", "what is damaged is for the user to look at"
    (label,) = {json.loads((run / "config.json").read_text())["config"]["label"] for run in runs[3:]}
    rest = json.loads((tmp_path / "comparison.json").read_text())["labels"][label]["columns"][0]["seeds"]
    assert rest.items() <= table["labels"][label]["columns"][0]["seeds"].items() and len(rest) == 1


def test_a_report_that_cannot_be_written_hides_no_failure(
    waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CompareConfig(**settings(waves_file))
    page, _ = compare(config, RunContext(output=tmp_path))
    before = page.read_bytes()
    run = next(tmp_path.glob("*lstm-seed2*"))
    (run / "summary.json").write_text("")

    def full(*_: Any, **__: Any) -> None:
        raise WriteError(28, "No space left on device", str(page))

    monkeypatch.setattr("noisyrnn.report.write_report", full)
    _, failures = compare(config, RunContext(output=tmp_path))
    assert list(failures) == [run, page]
    assert failures[page].startswith(f"{page} could not be written (No space left on device).")
    assert page.read_bytes() == before


def test_a_run_in_use_is_named_and_left_alone(
    waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["noisyrnn.pipeline.execution"], "_WAIT", 0.0)
    config = CompareConfig(**settings(waves_file))
    run = run_path(config.run_configs()[1], tmp_path)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(run):
            held.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    try:
        _, failures = compare(config, RunContext(output=tmp_path))
    finally:
        done.set()
        holder.join()
    assert list(failures) == [run] and f"{run} must not be in use, got process" in failures[run]
    assert not list(run.iterdir())
    assert compare(config, RunContext(output=tmp_path))[1] == {}


def test_an_output_in_use_is_refused_before_any_work(waves_file: Path, tmp_path: Path) -> None:
    errors: list[str] = []

    def intrude() -> None:
        with pytest.raises(InUseError) as refused:
            compare(CompareConfig(**settings(waves_file)), RunContext(output=tmp_path / "out"))
        errors.append(str(refused.value))

    with locked(tmp_path / "out"):
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
    assert errors and errors[0].startswith(f"{tmp_path / 'out'} must not be in use, got process")
    assert list((tmp_path / "out").iterdir()) == []


def test_dask_without_its_package(waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    config = CompareConfig(**settings(waves_file), backend="dask", scheduler="tcp://127.0.0.1:1")
    with pytest.raises(ValueError, match=r"^`--backend dask` needs Dask: pip install 'noisyrnn\[cluster\]'$"):
        compare(config, RunContext(output=tmp_path))


def test_seeds_and_settings_of_the_runs(waves_file: Path) -> None:
    config = CompareConfig(**settings(waves_file, additive=0.3, step_size=0.5))
    runs = config.run_configs()
    assert [(run.model, run.seed) for run in runs] == [("noisy", 1), ("lstm", 1), ("noisy", 2), ("lstm", 2)]
    assert {run.model: run.options["additive"] for run in runs} == {"noisy": 0.3, "lstm": 0.3}
    assert {run.model: run.options.get("step_size") for run in runs} == {"noisy": 0.5, "lstm": None}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"models": []}, r"models must name at least one model, got none"),
        ({"models": ["noisy", "lipshitz"]}, r"got 'lipshitz'\. Did you mean 'lipschitz'\?"),
        ({"models": ["noisy", "noisy"]}, r"models must name each model once, got noisy, noisy"),
        ({"seeds": 0}, r"seeds must be at least 1, got 0"),
        ({"workers": 0}, r"workers must be at least 1, got 0"),
        ({"backend": "ray"}, r"backend must be one of dask, processes, got 'ray'"),
        ({"backend": "dask"}, r"scheduler must be the address of a Dask scheduler with backend 'dask', got none"),
    ],
)
def test_bad_settings(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CompareConfig(**{"models": ["noisy"], **changes})


def test_an_option_that_no_model_has() -> None:
    config = CompareConfig(models=["gru", "lstm"], train={"stiffness": 1.0})
    with pytest.raises(ValueError, match=r"stiffness must be an option of one of the models, got gru, lstm"):
        config.run_configs()


def test_recommended_settings_are_the_start() -> None:
    from noisyrnn.training.settings import recommended

    run = CompareConfig(models=["noisy"], train={"dataset": "digits"}).run_configs()[0]
    assert run == TrainConfig.from_dict(
        {**recommended("digits", "noisy"), "model": "noisy", "dataset": "digits", "seed": 1}
    )
