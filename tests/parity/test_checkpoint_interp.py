# SPDX-License-Identifier: Apache-2.0
"""Position tables fitted to another image size, against the official fine-tuning loader."""

from __future__ import annotations

import numpy as np
from golden_io import group, load_golden

from beitv2_core.assembly.transfer import resize_pos_embed
from beitv2_core.weights.remap import SHARED, expand_shared_bias, resize_rel_pos_bias

SUBJECT = ("checkpoint_interp",)


def test_tables_of_every_recorded_window(fixture_path):
    arrays, meta = load_golden(fixture_path)
    c, compared = meta["config"], 0
    source = (c["src_window"],) * 2
    for key in meta["conversions"]:
        kind, conversion = key.split("/")
        name, _, window = conversion.rpartition("_to_")
        if not window.isdigit() or not name:  # about names only
            continue
        target, given = (int(window),) * 2, group(arrays, f"input/{name}")
        expected = {k: v for k, v in group(arrays, key).items() if not k.endswith("relative_position_index")}
        for entry, reference in expected.items():
            if entry.endswith("relative_position_bias_table"):
                table = given[SHARED] if name == "shared" else given[entry]
                got = resize_rel_pos_bias(table, source, target)
                if name == "shared":
                    assert np.array_equal(expand_shared_bias({SHARED: got}, c["depth"])[entry], got)
            elif entry == "pos_embed":
                got = resize_pos_embed(given[entry], source, target)
            else:
                continue
            np.testing.assert_allclose(got, reference, atol=1e-5, err_msg=f"{kind} {conversion} {entry}")
            compared += 1
    assert compared >= 4
