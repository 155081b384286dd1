# SPDX-License-Identifier: Apache-2.0
"""The known kinds of models: core's own, the teachers, and those of installed packages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import _entry_points
from ..models.backbone import BEiTBackbone
from ..models.mim import BEiTForMaskedImageModeling
from ..models.vqkd import VQKD
from ..teachers.clip import CLIP
from ..teachers.dino import DINO
from ..weights.architecture import ShapeReader, norm_of, read_trunk
from ..weights.kind import IMAGE_FORMATS, NUM_HEADS, CardFacts, Kind, UntoldValue, positive_number

ENTRY_POINTS = "beitv2.kinds"
#: blocks before the [CLS] head of the published models, by depth
EARLY_LAYERS = {12: 9, 24: 21}


def known_kinds() -> dict[str, Kind]:
    """Every kind by name, core's first; other packages add a `Kind` by the entry points `beitv2.kinds`."""
    return _entry_points.load_all(ENTRY_POINTS, OURS)


def find_kind(name: str) -> Kind:
    """The kind of that name; ConfigError listing the known ones where no installed package has it."""
    kind: Kind = _entry_points.load(ENTRY_POINTS, name, OURS, "kinds of models")
    return kind


def kinds_trained_by(run: str) -> tuple[str, ...]:
    """The kinds of models that runs of a kind train; the runs of one kind may train several."""
    return tuple(kind.name for kind in known_kinds().values() if kind.run == run)


def kinds_that_start_others() -> list[str]:
    """The kinds with a trunk that other models can start from."""
    return [kind.name for kind in known_kinds().values() if kind.backbone is not None]


def _read_tokenizer(source: ShapeReader) -> dict[str, Any]:
    codes, code_dim = source.shape("quantize.codebook")
    return {"encoder": read_trunk(source, "encoder."), "decoder": read_trunk(source, "decoder."), "num_codes": codes,
            "code_dim": code_dim, "teacher_width": source.shape("decode_task_layer.2.bias")[0]}


def _build_tokenizer(architecture: Mapping[str, Any]) -> VQKD:
    rest = {name: value for name, value in architecture.items() if name not in ("encoder", "decoder")}
    encoder, decoder = (BEiTBackbone(**architecture[part], norm="pool") for part in ("encoder", "decoder"))
    return VQKD(encoder, decoder, **rest)


def _tokenizer_outputs(model: Any, inputs: list[Any]) -> dict[str, Any]:
    codes = model.tokenize(inputs[0])
    return {"features": model.features(inputs[0]), "codes": codes, "decoded": model.decode(codes)}


def _read_pretraining(source: ShapeReader) -> dict[str, Any]:
    found = {**read_trunk(source), "num_codes": source.shape("lm_head.bias")[0]}
    layers = source.count("cls_pt_layers.")
    if layers:
        published = EARLY_LAYERS[found["depth"]] if source.is_published(found) else None
        found.update(early_layers=source.told("early_layers", published), head_layers=layers,
                     share_lm_head="cls_pt_lm_head.weight" not in source)
    return found


def _pretraining_outputs(model: Any, inputs: list[Any]) -> dict[str, Any]:
    """Logits of all patches; with a mask (B, N) as second input, of the masked ones."""
    answers = model(inputs[0], inputs[1].astype("bool")) if len(inputs) > 1 else model.all_logits(inputs[0])
    return {f"{head} logits": value for head, value in answers.items()}


def _read_backbone(source: ShapeReader) -> dict[str, Any]:
    return {**read_trunk(source), "norm": norm_of(source)}


TOKENIZER = Kind(
    name="tokenizer", package="beitv2-core",
    marks=("quantize.codebook", "encoder.cls_token", "decode_task_layer.2.weight"),
    read=_read_tokenizer, build=_build_tokenizer, outputs=_tokenizer_outputs, trunks=("encoder", "decoder"),
    parts=frozenset("""encoder decoder quantize encode_task_layer decode_task_layer teacher_model scaling_layer
        loss""".split()),
    beside=("teacher_model.", "scaling_layer.", "loss."), run="tokenizer", made_by="beitv2 train-tokenizer CONFIG",
    unit_range=True, card=CardFacts(
        what="A visual tokenizer of BEiT v2 (VQ-KD, arXiv 2208.06366): it turns an image into a grid of codes, from "
             "which the features of its teacher are reconstructed.",
        limits=("Its codes are targets of pretraining and a description of patches; images cannot be restored from "
                "them.",), tag="image-feature-extraction", tags=("image-tokenizer",)))
_EARLY = UntoldValue("blocks before the [CLS] head (default: 9 of 12 and 21 of 24, for official files)", "9",
                     positive_number, stand_in=1)
PRETRAINING = Kind(
    name="pretraining", package="beitv2-core", marks=("lm_head.weight", "mask_token", "blocks.0.attn.qkv.weight"),
    read=_read_pretraining, build=lambda architecture: BEiTForMaskedImageModeling(**architecture),
    outputs=_pretraining_outputs, backbone="", untold={"num_heads": NUM_HEADS, "early_layers": _EARLY},
    formats=("ours", "official", "huggingface"), run="pretrain", made_by="beitv2 pretrain CONFIG", card=CardFacts(
        what="A vision transformer pretrained by BEiT v2 (arXiv 2208.06366): it predicts the codes of patches that are "
             "hidden from it. Labels of its images are not read.",
        limits=("It classifies nothing by itself: fine-tune it, fit a probe, or read its features.",),
        tag="image-feature-extraction", tags=("self-supervised-learning", "masked-image-modeling"),
        origins={"tokenizer.weights": "Codes to predict, from the tokenizer"}))
BACKBONE = Kind(
    name="backbone", package="beitv2-core",
    marks=("cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
    unlike=("head.weight", "lm_head.weight", "quantize.codebook", "blocks.0.attn.qkv.bias"), read=_read_backbone,
    build=lambda architecture: BEiTBackbone(**architecture),
    outputs=lambda model, inputs: {"features": model(inputs[0])}, backbone="", formats=IMAGE_FORMATS, card=CardFacts(
        what="The trunk of a BEiT v2 model (arXiv 2208.06366), a vision transformer without a head.",
        limits=("It classifies nothing by itself: fine-tune it, fit a probe, or read its features.",),
        tag="image-feature-extraction"))
OURS = {kind.name: kind for kind in (TOKENIZER, PRETRAINING, CLIP, DINO, BACKBONE)}
