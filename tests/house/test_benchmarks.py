# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' arithmetic: what is made of raw measurements, the result files, and the curves' exponents."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoint_cost
import pytest
from harness import flop, growth, machine, outcome, runner, show
from harness.catalogue import CASES, EXTRAS, FLOORS, MATMUL_SIDE, PEAK, RATIOS
from harness.derive import derive, floors_without_number
from rich.console import Console

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PEAK_SECONDS = 2 * MATMUL_SIDE**3 / 1e9 / 200  # a machine of 200 GFLOP/s


def measured(**cases: list[dict]) -> dict[tuple[str, str], outcome.Metric]:
    raw = {PEAK: [{"seconds": [PEAK_SECONDS, 2 * PEAK_SECONDS]}, {"seconds": [PEAK_SECONDS * 1.01]}], **cases}
    return {(one.case, one.metric): one for one in derive(raw)}


@pytest.mark.parametrize("found, wanted", [
    (flop.tokenizer_encode(), 35.5), (flop.pretrain_step(), 128.3), (flop.finetune_step(), 105.2),
    (flop.finetune_forward(), 35.1), (flop.tokenizer_step(), 133.3),
    (flop.pretrain_step(head_layers=0, classified=(196,)), 112.6)])
def test_the_work_of_a_image_is_the_published_architectures(found, wanted):
    assert found == pytest.approx(wanted, abs=0.06)


def test_the_best_process_counts_for_speed_and_the_worst_for_memory():
    found = measured(finetune_step=[{"seconds": [9.0, 6.0], "peak_bytes": 2e9}, {"seconds": [8.0], "peak_bytes": 3e9}])
    assert found["finetune_step", "seconds"].value == 6.0
    assert found["finetune_step", "images_per_second"].value == pytest.approx(8 / 6)
    assert found["finetune_step", "gflops"].value == pytest.approx(8 * flop.finetune_step() / 6)
    assert found["finetune_step", "share_of_peak"].value == pytest.approx(8 * flop.finetune_step() / 6 / 200)
    assert found["finetune_step", "peak_memory"].value == 3.0
    assert list(found["finetune_step", "seconds"].values) == [6.0, 8.0]


def test_ratios_are_made_of_the_same_run_and_only_where_both_were_measured():
    ours, peer = [{"seconds": [5.0], "peak_bytes": 3e9}], [{"seconds": [4.0], "peak_bytes": 2e9}]
    found = measured(finetune_step=ours, transformers_finetune_step=peer)
    assert found["finetune_step", "speed_over_transformers"].value == pytest.approx(0.8)
    assert found["finetune_step", "memory_over_transformers"].value == pytest.approx(1.5)
    assert ("finetune_step", "speed_over_timm") not in found


def test_every_floor_is_of_a_metric_that_its_case_gives():
    made = {(ratio.case, ratio.metric) for ratio in RATIOS}
    made |= {(case, extra.metric) for case, extras in EXTRAS.items() for extra in extras}
    made |= {(case, metric) for case in CASES for metric in ("seconds", "share_of_peak", "peak_memory")}
    assert set(FLOORS) <= made
    assert {name for ratio in RATIOS for name in (ratio.case, ratio.over)} <= set(CASES)


@pytest.mark.parametrize("metric, value, floor, steady, wanted", [
    ("seconds", 0.3, ("max", 0.3), False, True), ("seconds", 0.31, ("max", 0.3), True, False),
    ("share_of_peak", 0.72, ("min", 0.72), True, True), ("share_of_peak", 0.7, ("min", 0.72), True, False),
    ("share_of_peak", 0.9, ("min", 0.72), False, None), ("share_of_peak", 1.1, ("min", 0.72), True, None)])
def test_a_share_of_a_disturbed_peak_is_not_judged(metric, value, floor, steady, wanted):
    assert outcome.met(metric, value, floor, steady) is wanted


def test_the_peak_is_steady_where_two_measurements_agree():
    assert outcome.peak_is_steady([150, 200, 191])
    assert not outcome.peak_is_steady([150, 200, 189])
    assert not outcome.peak_is_steady([200])


def test_a_result_says_where_it_was_measured_and_comes_back_from_its_file(tmp_path):
    metrics = [outcome.Metric("quantizer", "seconds", "s", 0.123456, [0.123456, 0.2], ("max", 0.3)),
               outcome.Metric("codes", "seconds", "s", 1.0, [1.0], at={"codes": 1024})]
    made = outcome.outcome("core", {"quantizer": "alone"}, metrics, rounds=2, load=0.1, steady=True,
                           not_measured={"slide": "failed"}, peers={"torch": "2"})
    outcome.write(made, tmp_path / "sub" / "x.json")
    read = json.loads((tmp_path / "sub" / "x.json").read_text())
    assert read == made
    assert set(read) == {"schema", "benchmark", "date", "hardware", "versions", "peers", "commit", "environment",
                         "load_before", "rounds", "peak_is_steady", "cases", "not_measured", "metrics"}
    first, second = read["metrics"]
    assert first == {"case": "quantizer", "metric": "seconds", "unit": "s", "value": 0.1235, "values": [0.1235, 0.2],
                     "floor": {"max": 0.3, "met": True}}
    assert second["at"] == {"codes": 1024} and "floor" not in second
    month = read["date"][:4] + read["date"][5:7]
    assert outcome.path_of(read) == BENCHMARKS / f"core_{machine.slug(read['hardware'])}_{month}.json"


def test_tables_and_bars_show_what_was_not_measured_too(tmp_path):
    names = (PEAK, "finetune_step", "transformers_finetune_step", "start_up")
    raw = {PEAK: [{"seconds": [PEAK_SECONDS]}] * 2, "finetune_step": [{"seconds": [5.0], "peak_bytes": 3e9}],
           "start_up": [{"help": {"pretrain": 0.5, "segment train": 0.75}, "config": [0.25]}]}
    made = outcome.outcome("core", {name: CASES[name].what for name in names}, derive(raw), rounds=1, load=0.0,
                           steady=True, not_measured={"transformers_finetune_step": runner.NO_PEER})
    assert floors_without_number(made) == [("finetune_step", "speed_over_transformers")]
    with Console(record=True, file=(tmp_path / "table.txt").open("w"), width=80) as console:
        show.print_tables(console, made)
    rows = console.export_text().splitlines()
    place = next(i for i, row in enumerate(rows) if "transformers: fine-tuning step" in row)
    assert runner.NO_PEER in rows[place + 1]
    assert any("speed over transformers" in row and ">= 0.8" in row and "not measured" in row for row in rows)
    assert any("peak memory" in row and "3 GB" in row and "<= 2.5" in row and "missed" in row for row in rows)
    assert any("slowest help" in row and "0.75 s" in row for row in rows)
    assert {one["metric"] for one in made["metrics"]} >= {"help of pretrain", "help of segment train"}
    show.draw_bars(made, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("processor, wanted", [
    ("AMD EPYC 7763 64-Core Processor", "amd-epyc-7763-64-core-2c"),
    ("Intel(R) Xeon(R) CPU @ 2.20GHz", "intel-xeon-2c")])
def test_a_processors_name_makes_a_file_name(processor, wanted):
    assert machine.slug({"processor": processor, "cores": 2}) == wanted


def test_absent_peers_are_told_with_the_command_that_installs_them(monkeypatch, tmp_path):
    ran, told = [], []
    monkeypatch.setattr(runner, "run_case", lambda name, python: ran.append(name) or {"seconds": [1.0]})
    assert runner.peer_versions(tmp_path / "python") == {}
    raw, absent = runner.measure(["finetune_step", "timm_finetune_step"], 1, tmp_path / "python", {}, told.append)
    assert absent == {"timm_finetune_step": "peer not installed: make bench-peers"}
    assert ran == [PEAK, "finetune_step"] and set(raw) == set(ran) and len(told) == 2


def test_one_failing_case_does_not_end_the_run(monkeypatch, tmp_path):
    def run(name, python):
        if name == "slide":
            raise runner.CaseFailed("exit code 1: Traceback\nValueError: no")
        return {"seconds": [1.0]}

    monkeypatch.setattr(runner, "run_case", run)
    raw, absent = runner.measure(["slide", "finetune_step"], 2, tmp_path, {}, lambda line: None)
    assert absent == {"slide": "failed: ValueError: no"}
    assert len(raw["finetune_step"]) == 2 and "slide" not in raw


def test_the_peak_goes_before_every_case_that_is_a_share_of_it():
    assert runner.schedule(["finetune_step", "quantizer", "start_up"], 2) == [
        PEAK, "finetune_step", "quantizer", "start_up", PEAK, "finetune_step", "quantizer"]
    assert runner.schedule(["quantizer"], 1) == [PEAK, "quantizer"]


def test_the_forecast_follows_the_speed_of_what_is_done():
    order, cost = ["quantizer", "slide"], CASES["slide"].cost
    assert runner.forecast(order, 0, 0.0) == pytest.approx(CASES["quantizer"].cost + cost)
    assert runner.forecast(order, 1, 2 * CASES["quantizer"].cost) == pytest.approx(2 * cost)


def test_what_a_checkpoint_adds_is_what_the_steps_beside_it_took_longer_than_the_others():
    ends = [0.0, 1.0, 2.0, 3.0, 4.0, 5.8, 6.9, 7.9, 8.9, 9.9]
    found = checkpoint_cost.cost(ends, [(4.0, 4.5, 6.5), (9.9, 10.0, 11.0)], save_every=5)
    assert found["median_step"] == 1.0 and found["saving_step"] == 1.8
    assert found["copy"] == 0.5 and found["write"] == 2.0
    assert found["added_by_each"] == [pytest.approx(0.9)] and found["added_percent"] == pytest.approx(18.0)
    assert (found["times"], found["harmed"], found["note"]) == (1, 1, {"percent": 18.0})


def test_a_power_is_found_again_and_nonsense_refused():
    assert growth.exponent([1, 2, 4, 16], [3 * place**1.5 for place in (1, 2, 4, 16)]) == pytest.approx(1.5)
    for places, values in (([1], [2.0]), ([1, 1], [2.0, 3.0]), ([1, 2], [0.0, 1.0])):
        with pytest.raises(ValueError, match="exponent"):
            growth.exponent(places, values)


def test_a_curve_gives_points_exponents_a_sentence_and_a_image(tmp_path):
    raw = {place: {"seconds": [place / 100, place / 50], "peak_bytes": 1e9 * place**0.5} for place in (1, 2, 4, 8, 16)}
    metrics = [outcome.entry(one, True) for one in growth.curve_metrics("batch", raw)]
    points = [one["at"]["images in a batch"] for one in metrics if one["metric"] == "seconds"]
    assert points == [1, 2, 4, 8, 16]
    assert "1.00 (1.00 between the two largest)" in growth.sentence("batch", metrics)
    assert "with 0.50 (0.50)" in growth.sentence("batch", metrics)
    growth.draw_curve("batch", metrics, tmp_path / "batch.png")
    assert (tmp_path / "batch.png").read_bytes().startswith(b"\x89PNG")
