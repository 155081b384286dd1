# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import pytest

from beitv2_core.config.sections import DataConfig
from beitv2_core.config.unread import unread_settings
from beitv2_core.datasets import SOURCES


def test_settings_are_read_without_numpy_pillow_or_paddle():
    code = "import beitv2_core.config, sys; print({'numpy', 'PIL', 'paddle', 'beitv2_core.data'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("name", SOURCES)
def test_a_setting_of_one_data_set_is_refused_by_those_that_do_not_read_it(name):
    special = {key for source in SOURCES.values() for key in source.reads}
    assert special <= set(DataConfig.model_fields)
    assert set(unread_settings("data", name)) == special - set(SOURCES[name].reads)


@pytest.mark.parametrize("name", SOURCES)
def test_images_in_files_are_told_apart_and_drawn_ones_need_not_be(name):
    """`refuse_trained_on`, `identity` and `refuse_shared` ask these of a class."""
    offered = SOURCES[name].opens()
    assert {"of_settings", "files_of", "files_read", "load", "__len__"} <= set(vars(offered))
    assert bool(SOURCES[name].root) == ({"fingerprint", "content"} <= set(vars(offered)))
