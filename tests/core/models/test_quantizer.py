# SPDX-License-Identifier: Apache-2.0
"""Promises of the codebook that hold for any weights."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from beitv2_core.errors import ShapeError
from beitv2_core.layers import collective
from beitv2_core.models.quantizer import NormEMAQuantizer


def build(num_codes=12, code_dim=8, **kwargs) -> NormEMAQuantizer:
    return NormEMAQuantizer(num_codes, code_dim, **{"kmeans_init": False, **kwargs})


def snapshot(layer):
    return {name: value.numpy().copy() for name, value in layer.state_dict().items()}


@pytest.mark.parametrize("kmeans_init", [False, True])
def test_eval_mode_changes_nothing(kmeans_init):
    quantizer = build(kmeans_init=kmeans_init)
    quantizer.eval()
    before = snapshot(quantizer)
    quantizer(paddle.randn([2, 5, 8]))
    for name, value in snapshot(quantizer).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_the_state_holds_the_codebook_under_its_name():
    assert set(build().state_dict()) == {"codebook", "cluster_size", "initted"}
    assert not list(build().parameters())  # nothing for an optimizer to move


def test_codes_do_not_depend_on_the_scale_of_the_features():
    quantizer = build()
    quantizer.eval()
    h = paddle.randn([2, 5, 8])
    scale = 10 ** (4 * paddle.rand([2, 5, 1]) - 2)
    one, other = quantizer(h), quantizer(h * scale)
    np.testing.assert_array_equal(one.codes.numpy(), other.codes.numpy())
    np.testing.assert_allclose(float(one.loss), float(other.loss), rtol=1e-5)


def test_looking_up_a_code_returns_the_vector_it_was_replaced_by():
    quantizer = build()
    quantizer.eval()
    out = quantizer(paddle.randn([2, 5, 8]))
    np.testing.assert_allclose(quantizer.lookup(out.codes).numpy(), out.z_q.numpy(), atol=1e-6)


def test_a_code_vector_is_its_own_code():
    quantizer = build()
    quantizer.eval()
    codes = paddle.arange(12).reshape([2, 6])
    np.testing.assert_array_equal(quantizer(quantizer.lookup(codes)).codes.numpy(), codes.numpy())


def test_gradients_pass_straight_through():
    quantizer = build()
    z = F.normalize(paddle.randn([2, 5, 8]), axis=-1)
    weight = paddle.randn([2, 5, 8])
    h = z.clone()
    h.stop_gradient = False
    (quantizer(h).z_q * weight).sum().backward()
    tangent = weight - (weight * z).sum(-1, keepdim=True) * z  # what the normalisation of a unit vector lets through
    np.testing.assert_allclose(h.grad.numpy(), tangent.numpy(), atol=1e-5)


def test_the_codebook_stays_normalised_and_unused_codes_keep_their_direction():
    quantizer = build(num_codes=40)
    before = quantizer.codebook.numpy().copy()
    codes = quantizer(paddle.randn([1, 10, 8])).codes.numpy()
    after, unused = quantizer.codebook.numpy(), np.setdiff1d(np.arange(40), codes)
    np.testing.assert_allclose(np.linalg.norm(after, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(after[unused], before[unused], atol=1e-6)
    assert (np.abs(after - before)[codes.ravel()].max(-1) > 1e-4).all()


def test_cluster_size_is_a_moving_average_of_counts():
    quantizer = build(decay=0.9)
    quantizer.cluster_size.set_value(paddle.full([12], 2.0))
    codes = quantizer(paddle.randn([2, 5, 8])).codes.numpy()
    counts = np.bincount(codes.ravel(), minlength=12)
    np.testing.assert_allclose(quantizer.cluster_size.numpy(), 0.9 * 2 + 0.1 * counts, rtol=1e-5)


def test_the_first_training_batch_starts_the_codebook_and_the_second_does_not():
    quantizer = build(kmeans_init=True)
    assert quantizer.initted.item() == 0
    h = paddle.randn([4, 20, 8])
    first = quantizer(h)
    assert quantizer.initted.item() == 1
    assert len(np.unique(first.codes.numpy())) > 6  # a codebook of zeros would give one code
    before = quantizer.codebook.numpy().copy()
    quantizer(h)
    assert np.abs(quantizer.codebook.numpy() - before).max() < 0.1  # moved by decay 0.99, not clustered anew


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_changes_no_code(dtype):
    quantizer = build(num_codes=512, code_dim=32)
    quantizer.eval()
    h = paddle.randn([4, 50, 32])
    plain = quantizer(h)
    with paddle.amp.auto_cast(level="O2", dtype="bfloat16"):
        mixed = quantizer(h)
    np.testing.assert_array_equal(plain.codes.numpy(), mixed.codes.numpy())
    np.testing.assert_array_equal(plain.z_q.numpy(), mixed.z_q.numpy())
    half = quantizer(h.astype(dtype))
    assert half.z_q.dtype == half.loss.dtype == quantizer.codebook.dtype == paddle.float32


def test_wrong_channel_count_names_both_numbers():
    with pytest.raises(ShapeError, match="features have 9 channels, the codebook has 8. Check tokenizer.code_dim"):
        build()(paddle.randn([2, 5, 9]))


def test_features_of_another_rank_are_refused_with_their_shape():
    with pytest.raises(ShapeError, match=r"shape \[2, 8\]; expected \(batch, patches, 8\)"):
        build()(paddle.randn([2, 8]))


def test_replaced_codes_take_the_new_directions_and_the_others_stay():
    quantizer = build()
    before = quantizer.codebook.numpy().copy()
    vectors = 5 * paddle.randn([2, 8])
    quantizer.replace_codes(paddle.to_tensor([3, 7]), vectors)
    after = quantizer.codebook.numpy()
    np.testing.assert_allclose(after[[3, 7]], F.normalize(vectors, axis=-1).numpy(), atol=1e-6)
    np.testing.assert_array_equal(np.delete(after, [3, 7], 0), np.delete(before, [3, 7], 0))


def test_replacing_needs_a_vector_for_each_code():
    with pytest.raises(ShapeError, match=r"vectors have shape \[3, 8\], codes \[2\]"):
        build().replace_codes(paddle.to_tensor([3, 7]), paddle.randn([3, 8]))


def test_k_means_sees_the_samples_of_all_processes_and_takes_the_first_ones_result(monkeypatch):
    quantizer, seen = build(kmeans_init=True), []
    mine, others, first = paddle.randn([30, 8]), paddle.randn([30, 8]), paddle.randn([12, 8])
    monkeypatch.setattr(collective, "all_gather", lambda x: paddle.concat([x, others]))
    monkeypatch.setattr(collective, "broadcast", lambda x: seen.append(x) or first)
    quantizer.initialise(mine)
    assert len(seen) == 1 and seen[0].shape == [12, 8]
    np.testing.assert_array_equal(quantizer.codebook.numpy(), first.numpy())
    quantizer.initialise(paddle.concat([mine, others]), gathered=True)
    assert len(seen) == 2


def test_two_processes_move_the_codebook_as_one_with_both_batches(monkeypatch):
    whole, half = build(), build()
    half.set_state_dict(whole.state_dict())
    h = F.normalize(paddle.randn([4, 6, 8]), axis=-1)
    codes = whole.nearest_codes(h.reshape([-1, 8])).reshape([4, 6])
    other_counts = paddle.bincount(codes[2:].flatten(), minlength=12).astype("float32")
    other_sums = paddle.zeros([12, 8]).index_add(codes[2:].flatten(), 0, h[2:].reshape([-1, 8]))
    monkeypatch.setattr(collective, "all_reduce_sum", lambda x: x + (other_counts if x.ndim == 1 else other_sums))
    half(h[:2])
    monkeypatch.undo()
    whole(h)
    for name, value in snapshot(whole).items():
        np.testing.assert_allclose(half.state_dict()[name].numpy(), value, atol=1e-6, err_msg=name)
