# SPDX-License-Identifier: Apache-2.0
"""PaddleSeg's losses, optimizers and schedules: what its builder makes of them, or refused with the line to write."""

from __future__ import annotations

import types
from pathlib import Path

import numpy as np
import paddle
import pytest
from e2e_runs import assert_same_end
from seg_runs import DIGITS, segment, train, write_ade20k

from beitv2_core.engine.optim import set_weight_decay
from beitv2_core.errors import ConfigError
from beitv2_seg.assembly import build_segmentation
from beitv2_seg.config import Component, LossConfig, read_config_file
from beitv2_seg.paddleseg.training_parts import build_loss, build_optimizer, learning_rates

pytest.importorskip("paddleseg", reason="PaddleSeg is not installed")

from paddleseg.cvlibs import SegBuilder  # noqa: E402

ITERS = 12


def builder(**sections) -> SegBuilder:
    """PaddleSeg's, of these sections only."""
    return SegBuilder(types.SimpleNamespace(iters=ITERS, **sections))


# -- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", [
    {"type": "PolynomialDecay", "learning_rate": 0.01, "end_lr": 0, "power": 0.9},
    {"type": "PolynomialDecay", "learning_rate": 0.01, "decay_steps": 5, "power": 0.9},
    {"type": "PolynomialDecay", "learning_rate": 0.01, "end_lr": 0, "power": 0.9, "warmup_iters": 4,
     "warmup_start_lr": 1e-5},
    {"type": "CosineAnnealingDecay", "learning_rate": 0.1, "T_max": 9, "eta_min": 0.01},
    {"type": "CosineAnnealingDecay", "learning_rate": 0.1, "T_max": 9, "warmup_iters": 3, "warmup_start_lr": 0.0},
    {"type": "CosineAnnealingWarmRestarts", "learning_rate": 0.1, "T_0": 3, "T_mult": 2},
    {"type": "StepDecay", "learning_rate": 0.1, "step_size": 3},
    {"type": "MultiStepDecay", "learning_rate": 0.1, "milestones": [3, 7], "gamma": 0.5},
    {"type": "PiecewiseDecay", "boundaries": [3, 7], "values": [0.1, 0.01, 0.001]},
    {"type": "ExponentialDecay", "learning_rate": 0.1, "gamma": 0.9, "warmup_iters": 20, "warmup_start_lr": 0.0},
    {"type": "NaturalExpDecay", "learning_rate": 0.1, "gamma": 0.1},
    {"type": "InverseTimeDecay", "learning_rate": 0.1, "gamma": 0.1},
    {"type": "NoamDecay", "d_model": 64, "warmup_steps": 4},
    {"type": "LinearWarmup", "learning_rate": 0.1, "warmup_steps": 4, "start_lr": 0.0, "end_lr": 0.1},
    {"type": "OneCycleLR", "max_learning_rate": 0.1, "total_steps": 14},
    {"type": "CyclicLR", "base_learning_rate": 0.01, "max_learning_rate": 0.1, "step_size_up": 3},
    {"type": "LinearLR", "learning_rate": 0.1, "total_steps": 8},
], ids=lambda section: f"{section['type']}{'-warmup' if 'warmup_iters' in section else ''}")
def test_every_iteration_has_the_rate_that_paddleseg_trains_it_with(section):
    theirs = builder(lr_scheduler_cfg=dict(section)).lr_scheduler
    expected = []
    for _ in range(ITERS):
        expected.append(theirs())
        theirs.step()
    assert learning_rates(Component(**section), ITERS).tolist() == expected


@pytest.mark.parametrize(("section", "facts"), [
    ({"type": "ReduceOnPlateau", "learning_rate": 0.1}, ("depends on the loss", "lr_scheduler: {type: Polynomial")),
    ({"type": "LambdaDecay", "learning_rate": 0.1}, ("Python function", "lr_scheduler: {type: PolynomialDecay")),
    ({"type": "PolyDecay", "learning_rate": 0.1}, ("Did you mean 'PolynomialDecay'?", "BEiTv2WarmupPoly", "StepDecay")),
    ({"type": "math"}, ("'math' is no known schedule",)),
    ({"type": "PolynomialDecay", "learning_rate": 0.1, "powr": 2}, ("lr_scheduler.powr", "Did you mean 'power'?")),
    ({"type": "PolynomialDecay", "learning_rate": 0.1, "warmup_iter": 2}, ("Did you mean 'warmup_iters'?",)),
    ({"type": "PolynomialDecay", "learning_rate": 0.1, "warmup_iters": 2}, ("lr_scheduler.warmup_start_lr: required",)),
    ({"type": "PolynomialDecay", "learning_rate": 0.1, "warmup_start_lr": 0.0}, ("lr_scheduler.warmup_start_lr",)),
    ({"type": "PiecewiseDecay", "boundaries": [3], "values": [1.0, 0.1], "warmup_iters": 2, "warmup_start_lr": 0.0},
     ("lr_scheduler.learning_rate: required",)),
    ({"type": "StepDecay", "learning_rate": 0.1}, ("lr_scheduler.step_size: required by StepDecay",)),
    ({"type": "StepDecay", "learning_rate": -1.0, "step_size": 2}, ("'StepDecay' refuses its arguments",)),
])
def test_a_schedule_that_cannot_be_made_is_named_with_what_to_write(section, facts):
    with pytest.raises(ConfigError) as raised:
        learning_rates(Component(**section), ITERS)
    assert all(fact in str(raised.value) for fact in facts), raised.value


# -- optimizers -------------------------------------------------------------------------------------------------------


class Small(paddle.nn.Layer):
    """Two linear layers under a segmentor's names."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = paddle.nn.Linear(3, 4), paddle.nn.Linear(4, 2)

    def forward(self, values):
        return self.head(self.backbone(values)).square().mean()


@pytest.mark.parametrize("section", [
    {"type": "sgd"},
    {"type": "SGD", "weight_decay": 4.0e-5, "custom_cfg": [{"name": "backbone", "lr_mult": 0.1},
                                                           {"name": "bias", "weight_decay_mult": 0.0}]},
    {"type": "sgd", "momentum": 0.9, "weight_decay": 4.0e-5},
    {"type": "Momentum", "use_nesterov": True, "momentum": 0.8, "weight_decay": 0.1,
     "custom_cfg": [{"name": "bias", "weight_decay_mult": 0.0}]},
    {"type": "adam"},
    {"type": "Adam", "beta1": 0.8, "weight_decay": 0.01},
    {"type": "AdamW"},
    {"type": "AdamW", "beta2": 0.99, "weight_decay": 0.1, "custom_cfg": [
        {"name": "backbone", "lr_mult": 0.1}, {"name": "bias", "weight_decay_mult": 0.5}]},
    {"type": "SGD", "grad_clip_cfg": {"name": "ClipGradByGlobalNorm", "clip_norm": 0.1}},
    {"type": "AdamW", "grad_clip_cfg": {"name": "ClipGradByValue", "max": 0.05}},
], ids=lambda section: "-".join([section["type"], *(key for key in section if key != "type")]))
def test_updates_are_those_of_paddlesegs_optimizer_and_schedule(section):
    schedule = {"type": "PolynomialDecay", "learning_rate": 0.1, "end_lr": 0.0, "power": 0.9, "warmup_iters": 2,
                "warmup_start_lr": 0.01}
    ours, theirs = Small(), Small()
    theirs.set_state_dict(ours.state_dict())
    made = builder(lr_scheduler_cfg=dict(schedule), optimizer_cfg=dict(section))
    made.model = theirs
    reference = made.optimizer
    rates = learning_rates(Component(**schedule), ITERS)
    optimizer, decay = build_optimizer(Component(**section), ours, float(rates.max()))
    for step in range(5):
        values = paddle.to_tensor(np.random.RandomState(step).randn(6, 3).astype("float32"))
        optimizer.set_lr(float(rates[step]))
        set_weight_decay(optimizer, decay)
        for model, update in ((ours, optimizer), (theirs, reference)):
            (model(values) * 10).backward()
            update.step()
            update.clear_grad()
        made.lr_scheduler.step()
    for name, value in ours.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), theirs.state_dict()[name].numpy(), err_msg=name)


@pytest.mark.parametrize(("section", "facts"), [
    ({"type": "AdamWDL"}, ("does not run", "optimizer: {type: BEiTv2AdamW")),
    ({"type": "AdamWDL_CAE", "layerwise_decay": 0.7}, ("does not run", "optimizer: {type: BEiTv2AdamW")),
    ({"type": "Adagrad"}, ("optimizer.type: 'Adagrad'", "Momentum", "BEiTv2AdamW")),
    ({"type": "CrossEntropyLoss"}, ("'CrossEntropyLoss' is a loss; expected an optimizer", "SGD")),
    ({"type": "SGD", "weigth_decay": 0.1}, ("optimizer.weigth_decay", "Did you mean 'weight_decay'?")),
    ({"type": "Momentum", "weight_decay": 1}, ("optimizer: Momentum", "must be a float")),
    ({"type": "SGD", "custom_cfg": [{"name": "bakbone", "lr_mult": 0.1}]},
     ("optimizer.custom_cfg[0].name: 'bakbone'", "backbone.weight")),
    ({"type": "SGD", "custom_cfg": [{"name": "backbone", "lr_mul": 0.1}]},
     ("optimizer.custom_cfg[0].lr_mul: unknown key", "lr_mult")),
    ({"type": "SGD", "custom_cfg": [{"name": "backbone", "weight_decay_mult": 0.1}]}, ("Add optimizer.weight_decay",)),
    ({"type": "SGD", "grad_clip_cfg": {"name": "ClipGradByNorm", "norm": 1}}, ("optimizer: SGD",)),
])
def test_an_optimizer_that_cannot_be_made_is_named_with_what_to_write(section, facts):
    with pytest.raises(ConfigError) as raised:
        build_optimizer(Component(**section), Small(), 0.1)
    assert all(fact in str(raised.value) for fact in facts), raised.value


def test_clipping_by_the_norm_of_all_gradients_is_refused_where_they_are_divided():
    section = Component(type="SGD", grad_clip_cfg={"name": "ClipGradByGlobalNorm", "clip_norm": 0.1})
    with pytest.raises(ConfigError, match="run.sharding: stage1"):
        build_optimizer(section, Small(), 0.1, sharding="stage1")


# -- losses -----------------------------------------------------------------------------------------------------------

CLASSES = 4


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Logits (2, 4, 32, 32) and labels (2, 32, 32), five rows of them ignored."""
    draw = np.random.RandomState(0)
    logits = draw.randn(2, CLASSES, 32, 32).astype("float32")
    labels = draw.randint(0, CLASSES, (2, 32, 32))
    labels[:, :5] = 255
    return logits, labels


def value_and_gradient(section) -> tuple[float, np.ndarray]:
    logits, labels = drawn()
    tensor = paddle.to_tensor(logits, stop_gradient=False)
    value = build_loss(section, "loss.types[0]")(tensor, paddle.to_tensor(labels))
    value.backward()
    return float(value), tensor.grad.numpy()


def labelled_pixels() -> tuple[np.ndarray, np.ndarray]:
    """float64 log-probabilities (P, C) and labels (P,) of the pixels that are not ignored."""
    logits, labels = drawn()
    scores = logits.astype("float64").transpose(0, 2, 3, 1)[labels != 255]
    return scores - np.log(np.exp(scores).sum(1, keepdims=True)), labels[labels != 255]


@pytest.mark.parametrize(("options", "weights"), [({}, [1, 1, 1, 1]),
                                                  ({"weight": [1.0, 2.0, 3.0, 0.5]}, [1, 2, 3, 0.5])])
def test_cross_entropy_is_the_weighted_mean_of_the_labelled_pixels_on_every_paddle(options, weights):
    scores, labels = labelled_pixels()
    factors = np.asarray(weights, dtype="float64")[labels]
    expected = (-scores[np.arange(len(labels)), labels] * factors).sum() / factors.sum()
    value, gradient = value_and_gradient({"type": "CrossEntropyLoss", "ignore_index": 255, **options})
    assert value == pytest.approx(expected, rel=1e-5)
    pulls = (np.exp(scores) - np.eye(CLASSES)[labels]) * (factors / factors.sum())[:, None]
    _, all_labels = drawn()
    np.testing.assert_allclose(gradient.transpose(0, 2, 3, 1)[all_labels != 255], pulls, atol=1e-7)
    assert not gradient.transpose(0, 2, 3, 1)[all_labels == 255].any()


def test_hard_pixels_are_chosen_as_ohem_chooses_them_on_every_paddle():
    scores, labels = labelled_pixels()
    own = scores[np.arange(len(labels)), labels]
    expected = -own[np.exp(own) < 0.2].mean()
    value, gradient = value_and_gradient({"type": "OhemCrossEntropyLoss", "thresh": 0.2, "min_kept": 100})
    assert value == pytest.approx(expected, rel=1e-4) and np.abs(gradient).sum() > 0


def test_the_region_loss_has_the_value_it_has_on_paddle_2():
    value, gradient = value_and_gradient({"type": "RMILoss", "num_classes": CLASSES})
    assert value == pytest.approx(3.0084090, rel=1e-5) and np.abs(gradient).sum() == pytest.approx(1.5158218, rel=1e-4)


def test_mixed_losses_are_summed_with_their_weights():
    parts = [{"type": "DiceLoss"}, {"type": "LovaszSoftmaxLoss"}, {"type": "CrossEntropyLoss"}]
    expected = sum(weight * value_and_gradient(part)[0] for weight, part in zip((0.3, 0.5, 0.2), parts))
    mixed, gradient = value_and_gradient({"type": "MixedLoss", "losses": parts, "coef": [0.3, 0.5, 0.2]})
    assert mixed == pytest.approx(expected, rel=1e-6) and np.abs(gradient).sum() > 0


def test_no_loss_changes_the_labels_that_the_next_one_reads():
    logits, labels = (paddle.to_tensor(array) for array in drawn())
    for name in ("DiceLoss", "CrossEntropyLoss", "OhemCrossEntropyLoss", "LovaszSoftmaxLoss", "BCELoss"):
        build_loss({"type": name}, "loss.types[0]")(logits, labels)
        np.testing.assert_array_equal(labels.numpy(), drawn()[1], err_msg=name)


def test_a_batch_without_a_labelled_pixel_gives_nothing():
    logits = paddle.to_tensor(drawn()[0], stop_gradient=False)
    value = build_loss({"type": "LovaszSoftmaxLoss"}, "loss.types[0]")(logits, paddle.full([2, 32, 32], 255, "int64"))
    value.backward()
    assert value.shape == [] and float(value) == 0 and not logits.grad.numpy().any()


def test_mending_leaves_tensors_as_they_were():
    before = [getattr(paddle.Tensor, name) for name in ("__add__", "__mul__")]
    value_and_gradient({"type": "CrossEntropyLoss"})
    assert [getattr(paddle.Tensor, name) for name in ("__add__", "__mul__")] == before


@pytest.mark.parametrize(("section", "facts"), [
    ({"type": "DistillationLoss"}, ("loss.types[0].type", "a second model's logits", "{type: BEiTv2CrossEntropyLoss}")),
    ({"type": "RelaxBoundaryLoss"}, ("DecoupledSegNet", "{type: BEiTv2CrossEntropyLoss}")),
    ({"type": "BCELoss", "edge_label": True}, ("edges", "{type: BEiTv2CrossEntropyLoss}")),
    ({"type": "MixedLoss", "losses": [{"type": "DiceLoss"}, {"type": "KLLoss"}], "coef": [1, 1]},
     ("loss.types[0].losses[1].type", "a second model's logits")),
    ({"type": "CrossEntropy"}, ("Did you mean 'CrossEntropyLoss'?", "Known: ", "DiceLoss")),
    ({"type": "SGD"}, ("'SGD' is an optimizer; expected a loss",)),
    ({"type": "BootstrappedCrossEntropyLoss", "loss_th": 0.3}, ("loss.types[0].min_K: required",)),
])
def test_a_loss_that_cannot_be_computed_is_named_with_what_to_write(section, facts):
    with pytest.raises(ConfigError) as raised:
        build_loss(section, "loss.types[0]")
    assert all(fact in str(raised.value) for fact in facts), raised.value


def test_a_loss_that_fails_on_these_logits_is_named_with_what_to_write():
    with pytest.raises(ConfigError, match=r"loss.types\[0\]: FocalLoss fails on Paddle .*channel of logit should be 2"
                                          r".*BEiTv2CrossEntropyLoss.*PYTHONPATH=PADDLESEG"):
        value_and_gradient({"type": "FocalLoss"})


def test_one_loss_with_several_weights_is_the_loss_of_every_output():
    losses = LossConfig(types=[{"type": "CrossEntropyLoss"}], coef=[1.0, 0.4])
    assert [loss.type for loss in losses.types] == ["CrossEntropyLoss"] * 2


# -- all together -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [
    "{_inherited_: false, type: sgd, momentum: 0.9, weight_decay: 4.0e-5}",
    "{_inherited_: false, type: adam}",
    "{_inherited_: false, type: AdamW, weight_decay: 0.05, custom_cfg: [{name: backbone, lr_mult: 0.1}]}",
])
def test_a_run_of_paddlesegs_parts_stopped_and_resumed_ends_as_the_uninterrupted_one_to_the_bit(tmp_path, optimizer):
    parts = [f"optimizer={optimizer}", "lr_scheduler={_inherited_: false, type: PolynomialDecay, learning_rate: 0.01, "
             "end_lr: 0, power: 0.9, warmup_iters: 2, warmup_start_lr: 1.0e-5}",
             "loss={_inherited_: false, types: [{type: MixedLoss, losses: [{type: CrossEntropyLoss}, {type: "
             "LovaszSoftmaxLoss}], coef: [0.8, 0.2]}], coef: [1, 0.4]}"]
    train(tmp_path / "whole", opts=parts)
    settings = read_config_file("digit_scenes", opts=[*DIGITS, *parts], flags={
        "iters": 6, "output": str(tmp_path / "parts"), "run.save_interval": 2})
    build_segmentation(settings).run(resume=None, stop_after=3)
    build_segmentation(settings).run(resume="auto")
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_the_settings_of_the_readme_train_on_ones_own_files(tmp_path):
    data = write_ade20k(tmp_path / "data", part="validation", images=4)
    for name in ("train", "val"):
        lines = [f"images/validation/{file.name} annotations/validation/{file.stem}.png"
                 for file in sorted((data / "images/validation").iterdir())]
        (data / f"{name}.txt").write_text("\n".join(lines))
    readme = Path(__file__).resolve().parents[3] / "packages/beitv2-seg/README.md"
    text = readme.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    for old, new in (("DATA", str(data)), ("PRETRAINED", "null"), ("num_classes: 3", "num_classes: 11"), ("512", "64"),
                     ("341", "43"), ("2048", "256")):
        text = text.replace(old, new)
    (tmp_path / "mine.yml").write_text(text)
    output = segment("train", "--config", tmp_path / "mine.yml", "--save_dir", tmp_path / "run", "--device", "cpu",
                     "--do_eval", "--iters", 2, "--opts", "batch_size=2", "model.channels=8", "model.aux_channels=4",
                     "model.backbone={size: null, width: 12, depth: 12, num_heads: 2}")
    assert "best_miou" in output
