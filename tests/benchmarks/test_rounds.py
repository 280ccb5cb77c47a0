"""Turns, budgets and floors, with workers that only pretend; and one worker that is real."""

import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
from benchmarks.speed.cases import GROWTH, Case, Size, sizes, summary
from benchmarks.speed.rounds import Worker, WorkerError, measure_case

CASE = Case(size=Size(steps=3, batch=2, hidden=4), mode="training", threads=1)


@dataclass
class Pretender:
    """A worker that says how long its steps took, and writes down who was asked."""

    name: str
    seconds: float
    turns: list[str]
    fails_at: str = ""
    stops_after: int | None = None
    process: int = os.getpid()
    asked: list[str] = field(default_factory=list)

    def ask(self, do: str, *, limit: float, **arguments: Any) -> dict[str, Any]:
        self.asked.append(do)
        if do == self.fails_at:
            raise WorkerError("it does not want to")
        if do == "turn":
            self.turns.append(self.name)
            if self.stops_after is not None and self.turns.count(self.name) > self.stops_after:
                raise KeyboardInterrupt
        return {"seconds": [self.seconds, 3 * self.seconds, 2 * self.seconds]} if do == "turn" else {}


def measured(rounds: int, budget: float, **pretenders: Any) -> tuple[dict[str, Any], list[str], dict[str, Pretender]]:
    turns: list[str] = []
    workers = {name: Pretender(name, turns=turns, **settings) for name, settings in pretenders.items()}
    entry: dict[str, Any] = {}
    try:
        measure_case(entry, CASE, workers, rounds=rounds, budget=budget, ticked=lambda: None)
    except KeyboardInterrupt:
        entry["stopped"] = True
    return entry, turns, workers


def test_everyone_has_one_turn_a_round_after_a_first_one_that_does_not_count():
    entry, turns, _ = measured(4, 1e9, a={"seconds": 1.0}, b={"seconds": 2.0}, c={"seconds": 3.0})
    assert [sorted(turns[i : i + 3]) for i in range(0, 15, 3)] == [["a", "b", "c"]] * 5
    assert len({tuple(turns[i : i + 3]) for i in range(3, 15, 3)}) > 1  # not always in the same order
    assert entry["results"]["b"] == {"median": 4.0, "min": 4.0, "max": 4.0, "rounds": [4.0] * 4}


def test_a_slow_one_has_fewer_rounds_and_a_very_slow_one_its_first_run_alone():
    entry, _, _ = measured(5, 13.0, quick={"seconds": 0.1}, slow={"seconds": 1.0}, snail={"seconds": 10.0})
    assert {name: len(result["rounds"]) for name, result in entry["results"].items()} == {
        "quick": 5,
        "slow": 1,  # 6 s for the first turn and 6 for the next
        "snail": 1,
    }
    assert entry["results"]["snail"] == {**summary([10.0]), "cold": True}
    assert "cold" not in entry["results"]["slow"]


@pytest.mark.parametrize("where", ["setup", "turn"])
def test_one_that_fails_is_recorded_and_the_others_go_on(where):
    entry, _, workers = measured(2, 1e9, a={"seconds": 1.0}, b={"seconds": 1.0, "fails_at": where})
    assert entry["results"]["b"] == {"unavailable": "it does not want to"}
    assert len(entry["results"]["a"]["rounds"]) == 2
    assert workers["a"].asked[-1] == workers["b"].asked[-1] == "release"


def test_one_that_ends_after_its_turns_keeps_its_results():
    entry, _, workers = measured(2, 1e9, a={"seconds": 1.0, "fails_at": "release"}, b={"seconds": 1.0})
    assert [len(entry["results"][name]["rounds"]) for name in "ab"] == [2, 2]
    assert workers["b"].asked[-1] == "release"


def test_an_interruption_keeps_the_rounds_that_are_done():
    entry, _, _ = measured(9, 1e9, a={"seconds": 1.0}, b={"seconds": 1.0, "stops_after": 3}, sgemm={"seconds": 1.0})
    assert entry["stopped"]
    assert len(entry["results"]["b"]["rounds"]) == 2
    assert len(entry["results"]["a"]["rounds"]) in (2, 3)
    assert "floor" in entry


@pytest.mark.parametrize("rate", ["fma", "sgemm"])
def test_the_floor_is_the_time_of_the_products_at_the_speed_of_the_machine(rate):
    slower = {"bf16": {"seconds": 5.0}, **({"sgemm": {"seconds": 5.0}} if rate == "fma" else {})}
    entry, _, _ = measured(2, 1e9, a={"seconds": 1.0}, **slower, **{rate: {"seconds": 0.5}})
    assert list(entry["results"]) == ["a"]
    assert set(entry["rates"]) == {rate, *slower}
    assert entry["rates"][rate] == {"best": 2 * 1024**3 / 0.5, "median": 2 * 1024**3 / 1.0}
    assert entry["floor"]["rate"] == rate
    multiplied = sum(2 * 4 for _ in range(3) for _ in range(2) for _ in range(4))  # steps, rows, units; A and W
    assert entry["floor"]["median"] == pytest.approx(3 * 2 * multiplied / (2 * 1024**3))
    assert entry["floor"]["best"] == pytest.approx(entry["floor"]["median"] / 2)


def test_operations_of_the_main_size():
    training = Case(size=Size(), mode="training", threads=1)
    inference = Case(size=Size(), mode="inference", threads=1)
    assert (inference.operations(), training.operations()) == (6_576_668_672, 3 * 6_576_668_672)


@pytest.mark.parametrize(("model", "products"), [("rnn", 1), ("exprnn", 1), ("cornn", 2), ("gru", 3), ("lstm", 4)])
def test_operations_of_other_models(model, products):
    case = Case(size=Size(steps=3, batch=5, hidden=7), mode="inference", threads=1, model=model)
    assert case.operations() == 2 * products * 3 * 5 * 7 * 7


def test_sizes_grow_along_one_axis_at_a_time_or_along_all():
    main = Size()
    assert sizes(main, "main") == [main]
    grown = sizes(main, "growth")
    assert grown[0] == main
    assert len(grown) == len(set(grown)) == 1 + 3 + 4 + 3
    assert max(sum(a != b for a, b in zip(asdict(s).values(), asdict(main).values(), strict=True)) for s in grown) == 1
    assert {axis: tuple(sorted({getattr(s, axis) for s in grown})) for axis in GROWTH} == GROWTH
    assert len(sizes(main, "full")) == 4 * 5 * 4


@pytest.mark.slow
def test_a_real_worker_answers_survives_an_error_and_comes_back_after_its_end():
    worker = Worker("plain", 1)
    try:
        worker.ask("setup", limit=120, mode="training", steps=2, batch=1, hidden=3)
        assert 0 < worker.ask("turn", limit=60, seconds=0.0)["seconds"][0] < 10
        with pytest.raises(WorkerError, match="AttributeError"):
            worker.ask("nonsense", limit=60)
        assert worker.ask("release", limit=60) == {}
        assert worker.process is not None
        os.kill(worker.process, signal.SIGKILL)
        with pytest.raises(WorkerError, match="its process was ended by signal 9"):
            worker.ask("release", limit=60)
        with pytest.raises(WorkerError, match="took more than 0 s to answer"):
            worker.ask("release", limit=0.01)
        assert worker.process is None
    finally:
        worker.stop()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux alone")
def test_a_step_too_large_for_the_machine_fails_by_itself():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    worker = Worker("plain", 1)
    try:
        with pytest.raises(WorkerError, match=r"RuntimeError: .*memory"):  # one matrix takes nine tenths of the machine
            worker.ask("setup", limit=120, mode="training", steps=1, batch=1, hidden=int((0.9 * memory / 4) ** 0.5))
        assert worker.process is not None  # it was not killed
    finally:
        worker.stop()
