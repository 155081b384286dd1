# SPDX-License-Identifier: Apache-2.0
"""Shared by all tests: the CPU, a fixed seed, and the folder of golden fixtures (`--goldens DIR`)."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import pytest  # noqa: E402

import beitv2_core.runtime  # noqa: E402  before paddle: it sets what Paddle should find

HERE = Path(__file__).parent


def pytest_addoption(parser):
    parser.addoption("--goldens", type=Path, default=HERE / "goldens", metavar="DIR",
                     help="folder with golden fixtures; every fixture found there is run")
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails: here nothing may be missing")


def pytest_configure(config):
    """Refuse a folder of fixtures in which nothing would be compared."""
    from golden_io import refuse_empty
    refuse_empty(config.getoption("--goldens"))


def _judge_skip(report, config) -> None:
    """Fail what was skipped without a reason, or at all where --no-skips is given."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2].removeprefix("Skipped").strip(": ")
    if reason in ("", "unconditional skip"):
        report.outcome, report.longrepr = "failed", f"{report.nodeid}: skipped without a reason. Write reason=..."
    elif config.getoption("--no-skips"):
        report.outcome, report.longrepr = "failed", f"{report.nodeid}: skipped under --no-skips: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    _judge_skip(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    _judge_skip(report, collector.config)
    return report


@pytest.fixture
def without_bfloat16(tmp_path_factory, monkeypatch) -> None:
    """As on a processor that does not multiply bfloat16 numbers, whatever this one is."""
    path = tmp_path_factory.mktemp("processor") / "cpuinfo"
    path.write_text("vendor_id\t: AuthenticAMD\nflags\t\t: sse2 fma avx2\n\n")
    monkeypatch.setattr(beitv2_core.runtime, "CPUINFO", str(path))
    monkeypatch.delenv("BEITV2_EMULATE_BFLOAT16", raising=False)


@pytest.fixture
def goldens_dir(request) -> Path:
    return request.config.getoption("--goldens")


def pytest_generate_tests(metafunc):
    """Run a parity test once for every fixture of its module's SUBJECT, or for every model among the fixtures."""
    if "fixture_path" in metafunc.fixturenames:
        from golden_io import golden_files, parametrize
        subject = metafunc.module.SUBJECT
        files = golden_files(metafunc.config.getoption("--goldens"), subject)
        parametrize(metafunc, "fixture_path", files, [path.stem for path in files],
                    subject if isinstance(subject, str) else " or ".join(subject))
    if "model" in metafunc.fixturenames and not hasattr(metafunc.module, "model"):
        from golden_io import parametrize
        from model_files import SUBJECTS, missing, models
        found = models(metafunc.config.getoption("--goldens"))
        cases = [pytest.param(one, marks=pytest.mark.skipif(bool(missing(one.kind)), reason=missing(one.kind)))
                 for one in found]
        parametrize(metafunc, "model", cases, [f"{one.fixture.stem}-{one.kind}" for one in found],
                    " or ".join(dict.fromkeys(subject for subject, _, _ in SUBJECTS)))


@pytest.fixture(params=["cpu", "gpu", "gpu, fused attention"])
def formulation(request, monkeypatch) -> str:
    """How the layers compute: as on CPUs, or, on the CPU all the same, as on GPUs."""
    if request.param != "cpu":
        from plain_layers import use_plain_layers
        use_plain_layers(monkeypatch)
    if "fused" in request.param:
        import paddle
        if paddle.__version__.startswith("2."):
            pytest.skip("Paddle 2 has no fused attention on the CPU")
        monkeypatch.setenv("BEITV2_FUSED_ATTENTION", "1")
    return request.param


@pytest.fixture(autouse=True)
def heard_logs():
    """A command that ran in this process keeps its package's records to its own handler; here every test hears them."""
    import logging
    for package in ("beitv2_core", "beitv2_cls", "beitv2_seg"):
        logging.getLogger(package).propagate = True


@pytest.fixture
def command_log(caplog, monkeypatch):
    """`caplog` for commands that run in this process: they would keep their records to a handler of their own."""
    import logging
    loggers = [logging.getLogger(package) for package in ("beitv2_core", "beitv2_cls", "beitv2_seg")]
    for logger in loggers:
        monkeypatch.setattr(logger, "propagate", False)
        logger.addHandler(caplog.handler)
    yield caplog
    for logger in loggers:
        logger.removeHandler(caplog.handler)


@pytest.fixture
def offer(monkeypatch, tmp_path):
    """A function (group, NAME=object, ...): an installed package offers these by entry points."""
    import sys
    from types import ModuleType
    package = ModuleType("offering_package")
    monkeypatch.setitem(sys.modules, package.__name__, package)
    groups: dict[str, list[str]] = {}

    def add(group, **objects):
        vars(package).update(objects)
        groups.setdefault(group, []).extend(f"{name} = {package.__name__}:{name}" for name in objects)
        site = tmp_path / f"site_{len(vars(package))}"  # a new one: what a path offers is read once
        info = site / "offering_package-1.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        about = "Metadata-Version: 2.1\nName: offering-package\nVersion: 1.0\n"
        (info / "METADATA").write_text(about, encoding="utf-8")
        (info / "entry_points.txt").write_text(
            "\n".join(line for group, lines in groups.items() for line in (f"[{group}]", *lines)), encoding="utf-8")
        monkeypatch.syspath_prepend(str(site))

    return add


@pytest.fixture(autouse=True)
def fixed_seed():
    import random

    import numpy as np
    random.seed(0)
    np.random.seed(0)
    try:
        import paddle
    except ImportError:  # tests of code that needs no Paddle run without it
        return
    paddle.seed(0)


def pytest_terminal_summary(terminalreporter):
    """Print what tests recorded as "summary", and how near to its limit each parity fixture came."""
    import sys

    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "summary" and report.when == "call":
                terminalreporter.write_line(value)

    worst = getattr(sys.modules.get("golden_io"), "WORST", {})
    if not worst:
        return
    kinds = ("output", "gradient", "update")
    terminalreporter.section("parity: largest error as a share of its limit")
    terminalreporter.write_line(f"{'fixture':<32}" + "".join(f"{kind:>10}" for kind in kinds))
    for fixture in sorted({name for name, _ in worst}):
        cells = (worst.get((fixture, kind)) for kind in kinds)
        terminalreporter.write_line(f"{fixture:<32}" + "".join(f"{'-' if v is None else f'{v:.3f}':>10}"
                                                               for v in cells))


@pytest.fixture(scope="session")
def importable_torchvision() -> None:
    """timm imports torchvision, whose PyPI wheel is built for CUDA: beside a CPU PyTorch its operators do not load.

    Its Python code then fails for the two operators it asks for by name, so those names are declared, without any
    kernel; no test calls them.
    """
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: `make test-peers`")
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError as error:
        assert "torchvision::nms" in str(error)
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
