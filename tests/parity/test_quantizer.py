# SPDX-License-Identifier: Apache-2.0
"""Training updates of the quantizer, alone and over two simulated processes, against the official code."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from golden_io import assert_close_grad, assert_close_output, load_golden, official_usage

from beitv2_core.layers import collective
from beitv2_core.models.quantizer import NormEMAQuantizer

SUBJECT = "quantizer"


def build(arrays, meta) -> NormEMAQuantizer:
    c = meta["config"]
    quantizer = NormEMAQuantizer(c["n_code"], c["dim"], decay=c["decay"], beta=c["beta"])
    quantizer.codebook.set_value(arrays["init/embedding.weight"])
    quantizer.cluster_size.set_value(arrays["init/cluster_size"])
    quantizer.initted.set_value(arrays["init/embedding.initted"])
    return quantizer


def rows(z_BCHW: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(z_BCHW.reshape(*z_BCHW.shape[:2], -1).transpose(0, 2, 1))


def test_training_updates_match_the_official_quantizer(fixture_path):
    arrays, meta = load_golden(fixture_path)
    quantizer = build(arrays, meta)
    for update in range(1, meta["config"]["updates"] + 1):
        at = {key.split("/")[-1]: value for key, value in arrays.items() if key.startswith(f"single/u{update}/")}
        z = paddle.to_tensor(rows(at["z"]), stop_gradient=False)
        out = quantizer(z)
        np.testing.assert_array_equal(out.codes.numpy().reshape(-1), at["ids"])
        assert_close_output(out.z_q, rows(at["z_q"]), "z_q")
        assert_close_output(float(out.loss), at["loss"], "loss")
        ((out.z_q * paddle.to_tensor(rows(at["cotangent"]))).sum() + 3 * out.loss).backward()
        assert_close_grad(z.grad, rows(at["grad_z"]), "grad_z")
        assert_close_output(quantizer.codebook, at["weight"], "codebook")
        assert_close_output(quantizer.cluster_size, at["cluster_size"], "cluster_size")


def test_eval_mode_reads_the_same_codes_and_usage_is_tracked_outside(fixture_path):
    arrays, meta = load_golden(fixture_path)
    quantizer = build(arrays, meta)
    quantizer.codebook.set_value(arrays["single/final/embedding.weight"])
    quantizer.cluster_size.set_value(arrays["single/final/cluster_size"])
    quantizer.eval()
    out = quantizer(paddle.to_tensor(rows(arrays["eval/z"])))
    np.testing.assert_array_equal(out.codes.numpy().reshape(-1), arrays["eval/ids"])
    assert_close_output(out.z_q, rows(arrays["eval/z_q"]), "z_q")
    assert_close_output(float(out.loss), arrays["eval/loss"], "loss")
    assert_close_output(quantizer.codebook, arrays["eval/weight"], "codebook")
    np.testing.assert_array_equal(quantizer.cluster_size.numpy(), arrays["single/final/cluster_size"])
    usage = official_usage(quantizer.cluster_size.numpy(), out.codes.numpy(), meta["config"]["decay"])
    assert_close_output(usage, arrays["eval/cluster_size"], "tracked usage")


def test_two_processes_share_one_codebook(fixture_path, monkeypatch):
    arrays, meta = load_golden(fixture_path)
    if "dist/u1/weight" not in arrays:
        pytest.skip(f"{fixture_path.name} has no two-process case")
    ranks = [build(arrays, meta), build(arrays, meta)]
    for update in range(1, meta["config"]["updates"] + 1):
        start = ranks[0].state_dict()
        before = {key: value.numpy() for key, value in start.items()}
        own: list[list[paddle.Tensor]] = [[], []]
        for r in (0, 1):  # first pass: what each process would contribute
            def record(tensor, mine=own[r]):
                mine.append(tensor)
                return tensor
            monkeypatch.setattr(collective, "all_reduce_sum", record)
            ranks[r](paddle.to_tensor(rows(arrays[f"dist/u{update}/rank{r}/z"])))
            ranks[r].set_state_dict({key: paddle.to_tensor(value) for key, value in before.items()})
        for r in (0, 1):
            sums = iter([a + b for a, b in zip(*own)])
            monkeypatch.setattr(collective, "all_reduce_sum", lambda tensor, sums=sums: next(sums))
            at = {key.split("/")[-1]: value for key, value in arrays.items()
                  if key.startswith(f"dist/u{update}/rank{r}/")}
            z = paddle.to_tensor(rows(at["z"]), stop_gradient=False)
            out = ranks[r](z)
            out.loss.backward()
            np.testing.assert_array_equal(out.codes.numpy().reshape(-1), at["ids"])
            assert_close_output(float(out.loss), at["loss"], "loss")
            assert_close_grad(z.grad, rows(at["grad_z"]), "grad_z")
            assert_close_output(ranks[r].codebook, arrays[f"dist/u{update}/weight"], "codebook")
            assert_close_output(ranks[r].cluster_size, arrays[f"dist/u{update}/cluster_size"], "cluster_size")
