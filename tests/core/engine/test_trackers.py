# SPDX-License-Identifier: Apache-2.0
"""Trackers get every line of metrics; a continued run continues theirs; a missing package is one line.

The packages are stood in for by modules that record the calls, which were checked against TensorBoardX 2.6.5, wandb
0.31 and MLflow 3.17.
"""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest
from PIL import Image

from beitv2_core import _entry_points
from beitv2_core.assembly.training import find_trackers
from beitv2_core.engine.run_folder import RunFolder
from beitv2_core.engine.trackers import Tracker, flat
from beitv2_core.errors import ConfigError, MissingDependencyError


class Recorder:
    """Notes every call of every name; attributes it was not told to lack exist."""

    def __init__(self, calls, name):
        self.calls, self.name = calls, name

    def __getattr__(self, name):
        def call(*args, **options):
            self.calls.append((name, args, options))
            return Recorder(self.calls, name)
        return call


def module(monkeypatch, name, **members):
    made = types.ModuleType(name)
    made.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, made)
    return made


@pytest.fixture(autouse=True)
def without_visualdl(monkeypatch):
    monkeypatch.setitem(sys.modules, "visualdl", None)


def two_starts(folder, name):
    """A run of three lines that is killed and continued after the second."""
    Image.new("RGB", (4, 4), "white").save(folder / "a.png")
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        run = RunFolder(folder / "run", find_trackers([name]))
        run.open()
        run.start_metrics(start, {"optim": {"lr": 1e-3}})
        for step in steps:
            run.log(step, {"loss": float(step)})
        run.log_figure("curves", folder / "a.png", steps[-1])
        run.close()


def test_tensorboard_purges_what_a_continued_run_repeats(tmp_path, monkeypatch):
    calls = []

    def writer(folder, purge_step):
        calls.append(("start", folder, purge_step))
        return Recorder(calls, "writer")

    module(monkeypatch, "tensorboardX", SummaryWriter=writer)
    two_starts(tmp_path, "tensorboard")
    folder = str(tmp_path / "run/tensorboard")
    assert [call for call in calls if call[0] == "start"] == [("start", folder, None), ("start", folder, 3)]
    assert [args for name, args, _ in calls if name == "add_scalar"] == [
        ("loss", float(step), step) for step in (1, 2, 3, 3, 4)]
    images = [options for name, _, options in calls if name == "add_image"]
    assert images == [{"dataformats": "HWC"}] * 2 and [call[0] for call in calls].count("close") == 2


def test_a_continued_run_is_the_same_run_of_wandb(tmp_path, monkeypatch):
    calls, starts = [], []

    def init(**options):
        starts.append(options)
        return Recorder(calls, "run")

    module(monkeypatch, "wandb", init=init, Image=lambda path: path)
    two_starts(tmp_path, "wandb")
    assert starts[0] == starts[1] and starts[0]["resume"] == "allow" and len(starts[0]["id"]) == 32
    assert starts[0]["config"] == {"optim": {"lr": 1e-3}} and starts[0]["dir"] == str(tmp_path / "run")
    logged = [(args[0], options) for name, args, options in calls if name == "log"]
    assert logged[0] == ({"loss": 1.0}, {"step": 1}) and logged[3] == ({"curves": str(tmp_path / "a.png")}, {"step": 3})


def test_a_continued_run_is_the_same_run_of_mlflow(tmp_path, monkeypatch):
    calls = []

    class Client(Recorder):
        def __init__(self):
            super().__init__(calls, "client")

        def get_experiment_by_name(self, name):
            return SimpleNamespace(experiment_id="7") if calls else None

        def create_run(self, experiment, run_name):
            calls.append(("create_run", (experiment, run_name), {}))
            return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    entities = SimpleNamespace(Metric=lambda *args: args[:2] + args[3:], Param=lambda *args: args)
    module(monkeypatch, "mlflow", MlflowClient=Client, entities=entities)
    two_starts(tmp_path, "mlflow")
    assert [call[0] for call in calls].count("create_run") == 1
    batches = [options for name, args, options in calls if name == "log_batch"]
    assert batches[0] == {"params": [("optim.lr", "0.001")]}
    assert [batch["metrics"] for batch in batches[1:]] == [[("loss", float(s), s)] for s in (1, 2, 3, 3, 4)]
    assert ("update_run", ("abc",), {"status": "RUNNING"}) in calls
    assert [args for name, args, _ in calls if name == "set_terminated"] == [("abc",), ("abc",)]


@pytest.mark.parametrize("name, package", [("tensorboard", "tensorboardX"), ("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_missing_package_is_one_line_that_names_the_extra(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError) as error:
        two_starts(tmp_path, name)
    assert f"pip install 'beitv2-core[{name}]'" in str(error.value) and "\n" not in str(error.value)


def test_unknown_trackers_are_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="train.trackers.*Did you mean 'tensorboard'.*beitv2.trackers"):
        find_trackers(["tensorbord"])
    assert find_trackers([]) == []


class Third(Tracker):
    lines: list = []

    def __init__(self, run):
        self.lines.append((run.path.name, run.step, dict(run.config)))

    def log(self, step, values):
        self.lines.append((step, dict(values)))

    def close(self):
        self.lines.append("closed")


def test_a_third_partys_tracker_is_an_entry_point(tmp_path, monkeypatch):
    monkeypatch.setattr(_entry_points, "_points", lambda group: (
        EntryPoint("third", f"{__name__}:Third", group),) if group == "beitv2.trackers" else ())
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Third.__module__])
    two_starts(tmp_path, "third")
    assert Third.lines == [("run", 0, {"optim": {"lr": 1e-3}}), (1, {"loss": 1.0}), (2, {"loss": 2.0}),
                           (3, {"loss": 3.0}), "closed", ("run", 2, {"optim": {"lr": 1e-3}}), (3, {"loss": 3.0}),
                           (4, {"loss": 4.0}), "closed"]


def test_settings_are_flat_for_those_that_know_no_trees():
    assert flat({"a": {"b": 1, "c": {"d": None}}, "e": [1, 2]}) == {"a.b": 1, "a.c.d": None, "e": [1, 2]}
