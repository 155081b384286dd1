# SPDX-License-Identifier: Apache-2.0
"""`beitv2 plan`: every recipe has one, it agrees with the training's own arithmetic, errors are named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.assembly.batches import plan_batches
from beitv2_core.assembly.costs import planned_run
from beitv2_core.config import load_config
from beitv2_core.config.load import kind_of, read_tree
from beitv2_core.errors import ConfigError
from beitv2_core.planning.cost import Cost, LayerCosts
from beitv2_core.planning.devices import GB, find_device
from beitv2_core.planning.run import PlannedRun, Schedule, estimated_speed, measured_speed, memory, work
from beitv2_core.planning.table import as_json, dividing, memory_rows
from beitv2_core.teachers import TEACHERS

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs"
IMAGENET = 1_281_167
FILES = sorted([*CONFIGS.glob("tokenizer/*.yml"), *CONFIGS.glob("pretrain/*.yml")])
PRETRAIN = CONFIGS / "pretrain/base_1600e.yml"


def run(*arguments):
    return CliRunner().invoke(cli.app, ["plan", *map(str, arguments)])


def planned(*arguments) -> dict:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, shown(result)
    return json.loads(result.stdout if hasattr(result, "stdout") else result.output)


def shown(result) -> str:
    try:
        return result.output + result.stderr
    except ValueError:
        return result.output


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_every_settings_file_has_a_plan_without_data_and_weights(path):
    more = []
    if path.parent.name == "pretrain" and (path.parents[1] / "tokenizer" / path.name).is_file():
        more = ["--set", f"tokenizer.weights={path.parents[1] / 'tokenizer' / path.name}"]
    if "digit_scenes" not in path.name:
        more = ["--images", IMAGENET, *more]
    found = planned(path, *more)
    assert found["parameters"]["trained"] > 1e4
    assert found["work"]["pflop_days"] > 0
    assert len(found["memory"]) == 4
    assert all(column["total_gb"] > 0 for column in found["memory"])
    assert sum(column["configured"] for column in found["memory"]) == 1


@pytest.mark.parametrize("devices", [1, 4, 16])
def test_the_schedule_is_the_trainings_own(devices):
    found = planned(PRETRAIN, "--images", IMAGENET, "--devices", devices)["schedule"]
    config = load_config(PRETRAIN, ["data.root=none", "tokenizer.weights=none"])
    plan = plan_batches(config.optim, config.train, IMAGENET, devices)
    for name in ("batch_size", "accumulate", "total_batch", "total_steps", "steps_per_epoch", "images"):
        assert found[name] == getattr(plan, name)
    assert (found["devices"], found["epochs"]) == (devices, 1600)


def test_the_table_shows_what_the_json_holds():
    text = shown(run(PRETRAIN, "--images", IMAGENET, "--devices", 16))
    found = planned(PRETRAIN, "--images", IMAGENET, "--devices", 16)
    assert f"{found['parameters']['trained']:,} trained" in text
    assert f"{found['memory'][0]['total_gb']:.2f}" in text
    assert "2048 = 128 images x 16 device(s) x 1 accumulated" in text
    assert "assuming 35 % of 15.7 TFLOP/s" in text


@pytest.mark.parametrize(("arguments", "message"), [
    ([PRETRAIN, "--devices", 12, "--images", IMAGENET],
     "train.total_batch: 2048 is not a multiple of 128 images x 12 process(es) = 1536"),
    ([PRETRAIN], "the number of images is not known. Add --images N"),
    ([PRETRAIN, "--device", "v1000"], "--device 'v1000' is not known. Known: v100-16g, v100-32g"),
    ([PRETRAIN, "--device", "custom"], "Add --memory-gb N"),
    ([PRETRAIN, "--images", IMAGENET, "--set", "train.amp=bf16"], "v100-32g has no units for bfloat16"),
    ([PRETRAIN, "--images", IMAGENET, "--throughput", 1, "--measured", "x.json"], "Give one of them"),
    ([PRETRAIN, "--images", IMAGENET, "--measured", "gone.json"], "--measured gone.json: cannot be read"),
    ([CONFIGS / "pretrain/digit_scenes.yml"], "Set tokenizer.weights to its run or to its YAML file"),
    ([CONFIGS / "tokenizer/vqkd_base_1x768x12_clip.yml", "teacher.name=sam", "--images", IMAGENET],
     f"teacher.name: there is no 'sam'. Known: {', '.join(TEACHERS)}"),
    ([CONFIGS / "_base_/optim_adamw.yml"], "kind: is missing"),
])
def test_errors_are_named(monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)  # no runs/ of an earlier demonstration
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in shown(result)


def test_the_work_of_a_teacher_is_planned_without_its_weights():
    result = run(CONFIGS / "tokenizer/digit_scenes.yml", "teacher.name=efficientnet_lite0")
    assert result.exit_code == 0 and "+ 0.24 (teacher efficientnet_lite0)" in shown(result)


def toy(kept: float = 100.0, amp: str = "off", frozen_flop: float = 0.0, **more) -> PlannedRun:
    cost = Cost(forward_flop=1e9, backward_flop=2e9, kept_bytes=kept, recomputed_bytes=0.8 * kept,
                largest_recomputed_bytes=0.1 * kept, largest_tensor_bytes=5.0, replayed_flop=5e8)
    schedule = Schedule(4, 2, 1, 8, 100, 80, 10)
    return PlannedRun("finetune", schedule, lambda layers: (cost, layers.without_amp(Cost(forward_flop=frozen_flop))),
                      (10, 0), amp=amp, **more)


def test_memory_is_the_sum_of_its_parts_and_the_largest_batch_just_fits():
    device = find_device("custom", memory_gb=2000 / GB)
    found = memory(toy(), device, amp=False, recompute=False, reserve_gb=200 / GB)
    assert (found.weights, found.gradients, found.optimizer, found.reserve) == (40, 40, 80, 200)
    assert (found.activations, found.working) == (400, 40)
    assert found.total == 800
    assert found.largest_batch == (2000 - 360) // 110
    assert found.fits
    less = memory(toy(), device, amp=False, recompute=True, reserve_gb=200 / GB)
    assert less.activations == pytest.approx(4 * (100 - 80 + 10))


def test_sharding_divides_what_it_says_and_decides_what_fits():
    device = find_device("custom", memory_gb=1090 / GB)
    found = {stage: memory(toy(), device, amp=False, recompute=False, reserve_gb=500 / GB, sharding=stage)
             for stage in ("off", "stage1", "stage2")}
    assert [(one.optimizer, one.gradients) for one in found.values()] == [(80, 40), (40, 40), (40, 20)]
    assert [one.fits for one in found.values()] == [False, True, True]
    for stage, one in found.items():
        shown = as_json(toy(sharding=stage), device, estimated_speed(toy(), device, 0.5), reserve_gb=500 / GB)
        assert shown["memory"][0]["total_gb"] == pytest.approx(one.total / GB)
        assert shown["memory"][0]["fits"] == one.fits
        assert [row[0] for row in memory_rows(shown) if row[0].startswith("total")] == {
            "off": ["total", "total if sharded, stage 1", "total if sharded, stage 2"],
            "stage1": ["total, sharded, stage 1"], "stage2": ["total, sharded, stage 2"]}[stage]


def test_configured_sharding_is_planned():
    plain, sharded = (planned(PRETRAIN, *more, "--images", IMAGENET, "--devices", 16)["memory"][0]
                      for more in ((), ("train.sharding=stage1",)))
    assert sharded["optimizer_gb"] == pytest.approx(plain["optimizer_gb"] / 16)
    assert sharded["total_gb"] == pytest.approx(plain["total_sharding_stage1_gb"])


@pytest.mark.parametrize(("largest", "expected"), [(147, 128), (128, 128), (127, 64), (0, 0), (9999, 128)])
def test_the_largest_batch_that_divides_leaves_whole_accumulation(largest, expected):
    assert dividing(largest, Schedule(128, 16, 1, 2048, 1, None, None)) == expected


def test_averaged_weights_and_sgd_change_the_memory():
    device = find_device("t4")
    found = memory(toy(averaged=True, states=1), device, amp=False, recompute=False, reserve_gb=0)
    assert (found.weights, found.optimizer) == (80, 40)


def test_an_estimate_is_the_share_of_the_peak_and_says_so():
    device = find_device("a100-80g")
    speed = estimated_speed(toy(amp="bf16"), device, 0.5)
    assert speed.images == pytest.approx(0.5 * 312e12 / 3e9)
    assert "estimate, assuming 50 % of 312 TFLOP/s" in speed.source
    slower = estimated_speed(toy(amp="bf16", frozen_flop=1e9), device, 0.5)  # that part stays in float32
    assert 1 / slower.images == pytest.approx(2 * (3e9 / 312e12 + 1e9 / 19.5e12))
    assert "of 19.5 for 1.0 GFLOP that stay in float32" in slower.source


def test_without_a_peak_the_time_is_not_known():
    here = estimated_speed(toy(), find_device("cpu"), 0.5)
    assert here.images is None and "--dry-run" in here.source and "--throughput" in here.source
    assert estimated_speed(toy(), find_device("cpu", peak_tflops=1.0), 0.5).images is not None


def test_recomputing_counts_as_work():
    assert work(toy(recompute=True))["step_gflop"] == work(toy())["step_gflop"] + 0.5


def test_a_given_throughput_sets_the_time():
    found = planned(PRETRAIN, "--images", IMAGENET, "--devices", 16, "--throughput", 100)["time"]
    assert found["device_hours"] == pytest.approx(1_000_000 * 2048 / 100 / 3600)
    assert found["hours"] == pytest.approx(found["device_hours"] / 16)
    assert "--throughput" in found["source"]


def test_a_measured_file_is_scaled_by_the_work():
    outcome = {"hardware": {"processor": "P", "cores": 2}, "metrics": [
        {"case": "matmul_peak", "metric": "gflops", "value": 200.0},
        {"case": "finetune_step", "metric": "share_of_peak", "value": 0.75}]}
    assert measured_speed(toy(), outcome, "x").images == pytest.approx(150 / 3)
    half = Cost(forward_flop=0.5e9, backward_flop=1e9, skipped_flop=0.5e9)
    skips = toy()._replace(costs=lambda layers: (half, Cost()))
    assert measured_speed(skips, outcome, "x").images == pytest.approx(150 / 3)  # the share counts official work
    with pytest.raises(ConfigError, match="holds no step of a 'segment' run, only finetune_step"):
        measured_speed(toy()._replace(kind="segment"), outcome, "x")
    with pytest.raises(ConfigError, match="no result file"):
        measured_speed(toy(), {"metrics": []}, "x")


def test_the_shipped_measurement_can_be_read():
    file = next((ROOT / "benchmarks").glob("core_*.json"))
    found = planned(PRETRAIN, "--images", IMAGENET, "--measured", file)["time"]
    assert "pretrain_step measured on" in found["source"]


def test_settings_without_a_kind_belong_to_the_schema_that_has_their_keys():
    tree = read_tree(CONFIGS / "tokenizer/digit_scenes.yml")[0]
    assert kind_of({key: value for key, value in tree.items() if key != "kind"}) == "tokenizer"
    assert kind_of({"kind": "tokenizer", "other": 1}) == "tokenizer"
    assert kind_of({"nonsense": 1}) is None
    assert kind_of({"data": {}}) is None  # several have it


def test_planning_a_run_of_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(ConfigError, match="costs of a kind of run: there is no 'paint'. Known: tokenizer, pretrain"):
        planned_run(SimpleNamespace(kind="paint"), images=None, devices=1)


def test_a_pretraining_step_leaves_the_tokenizer_in_float32():
    config = load_config(PRETRAIN, ["data.root=none", "tokenizer.weights=none"])
    trained, frozen = planned_run(config, images=IMAGENET, devices=16).costs(LayerCosts(amp=True))
    assert (trained.float32_flop, frozen.float32_flop) == (0, frozen.forward_flop)


def test_half_the_precision_is_cheaper_in_the_forms_that_products_read():
    assert LayerCosts(True).product(10, 4, 6).kept_bytes == LayerCosts().product(10, 4, 6).kept_bytes / 2
