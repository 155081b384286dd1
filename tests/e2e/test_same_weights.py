# SPDX-License-Identifier: Apache-2.0
"""The same settings by command, by Python and by the settings file of a run train the same weights, to the bit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from e2e_runs import CONFIGS, PRETRAIN, SHORT, assert_same_end, beitv2, finished

import beitv2_core
from beitv2_core.errors import ConfigError

pytestmark = pytest.mark.slow
STEPS = 4


@pytest.fixture(scope="module")
def settings(tokenizer_run):
    texts = [*SHORT, "model.width=24", f"optim.steps={STEPS}", "train.batch_size=16"]
    values = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in texts)}
    return {**values, "tokenizer.weights": tokenizer_run}


@pytest.fixture(scope="module")
def by_command(tmp_path_factory, tokenizer_run):
    folder = tmp_path_factory.mktemp("command") / "run"
    finished(beitv2(*PRETRAIN, f"optim.steps={STEPS}", "train.batch_size=16", f"tokenizer.weights={tokenizer_run}",
                    "-o", folder))
    return folder


#: in a process of its own, as the command is: what ran before in this one may have changed the number of threads
PROGRAM = """
import json, logging, sys
import beitv2_core

config, settings, written, folder = json.loads(sys.argv[1])
handlers = list(logging.getLogger("beitv2_core").handlers)
done = beitv2_core.pretrain(config, folder + "/python", set=settings, progress=False)
again = beitv2_core.pretrain(written, out=folder + "/file")
for run in (done, again):
    assert run.steps == run.total_steps and run.checkpoint.is_dir() and run.metrics.is_file()
    assert run.last["loss"] > 0 and run.figures
assert logging.getLogger("beitv2_core").handlers == handlers
assert beitv2_core.pretrain(beitv2_core.load_config(written), done.folder).steps == done.steps
"""


def test_python_and_the_written_settings_give_the_weights_of_the_command(tmp_path, by_command, settings):
    given = json.dumps([str(CONFIGS / "pretrain/digit_scenes.yml"), settings, str(by_command / "config.yml"),
                        str(tmp_path)], default=str)
    done = subprocess.run([sys.executable, "-c", PROGRAM, given], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    for run in ("python", "file"):
        assert_same_end(tmp_path / run, by_command)


def test_the_report_is_an_object_and_a_file(tmp_path, by_command, tokenizer_run):
    report = beitv2_core.evaluate(tokenizer_run, by_command, images=16, train_images=16, out=tmp_path, num_workers=0)
    assert report.num_codes == 16 and 0 < report.codes_used <= 16 and all(one.is_file() for one in report.figures)
    assert json.loads((tmp_path / "summary.json").read_text())["report"]["codebook"]["perplexity"] == report.perplexity


def test_a_dry_run_measures_and_writes_nothing(tmp_path, settings):
    measured = beitv2_core.pretrain(CONFIGS / "pretrain/digit_scenes.yml", tmp_path / "run", set=settings, dry_run=True)
    assert measured.loss > 0 and measured.parameters > 0 and not (tmp_path / "run").exists()


def test_errors_are_exceptions_with_the_words_of_the_command(tmp_path, settings):
    config, wrong = CONFIGS / "pretrain/digit_scenes.yml", "optim.stepps=3"
    said = finished(beitv2("pretrain", config, "--set", wrong), code=2)
    with pytest.raises(ConfigError) as caught:
        beitv2_core.pretrain(config, tmp_path, set=[wrong])
    assert str(caught.value) in said and "Did you mean 'steps'?" in str(caught.value)
    with pytest.raises(ConfigError, match="'pretrain' or 'tokenizer' config was expected"):
        beitv2_core.pretrain(CONFIGS / "cls/digit_scenes.yml", tmp_path)
