# SPDX-License-Identifier: Apache-2.0
"""A small trained tokenizer that the pretraining runs read."""

from __future__ import annotations

import pytest
from e2e_runs import TOKENIZER, beitv2, finished


@pytest.fixture(scope="session")
def tokenizer_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    finished(beitv2(*TOKENIZER, "optim.steps=24", "train.batch_size=16", f"output={folder}"))
    return folder
