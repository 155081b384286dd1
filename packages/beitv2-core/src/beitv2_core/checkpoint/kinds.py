"""Which model a file of weights holds, whose names it uses, and how to go from one to the other without losing a bit.

Kinds: tokenizer, pretraining, classifier, backbone (a trunk alone), segmentation, clip and dino (teachers).
Formats: ours, official, huggingface, timm, paddleclas; not every kind exists in every format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from beitv2_core.checkpoint.architecture import read_architecture
from beitv2_core.checkpoint.formats import KEYMAPS, Arrays, translate
from beitv2_core.checkpoint.keymaps.official import INDEX, TABLE
from beitv2_core.checkpoint.shapes import shapes_of
from beitv2_core.errors import CheckpointError
from beitv2_core.window import window_of

#: what tells each kind, under our names; the first column must be there, none of the second
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "tokenizer": (("quantize.codebook", "encoder.cls_token", "decode_task_layer.2.weight"), ()),
    "segmentation": (("decode_head.conv_seg.weight", "auxiliary_head.conv_seg.weight", "backbone.cls_token"), ()),
    "pretraining": (("lm_head.weight", "mask_token", "blocks.0.attn.qkv.weight"), ()),
    "classifier": (("head.weight", "cls_token", "blocks.0.attn.qkv.weight"), ()),
    "clip": (("class_embedding", "positional_embedding", "conv1.weight", "proj"), ()),
    "dino": (("blocks.0.attn.qkv.bias", "pos_embed", "norm.weight"), ("head.weight", "blocks.0.attn.q_bias")),
    "backbone": (("cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
                 ("head.weight", "lm_head.weight", "quantize.codebook", "blocks.0.attn.qkv.bias")),
}
_BESIDE = ("teacher_model.", "scaling_layer.", "loss.")  # of a released tokenizer file
_PREFIXES = ("", "module.", "backbone.", "module.backbone.")
_LINEARS = ("attn.qkv.weight", "mlp.fc1.weight", "mlp.fc2.weight", "attn.in_proj_weight", "mlp.c_fc.weight")


class Recognised(NamedTuple):
    """Weights under our names, and what it takes to write the file they came from again.

    prefix: before every name of the model in its file.  kept: tensors of the file that our names cannot give back,
    under the file's names.  absent: names the format has and the file had not.
    """

    kind: str
    origin: str
    weights: dict[str, np.ndarray]
    architecture: dict[str, Any]
    prefix: str = ""
    kept: Mapping[str, np.ndarray] = {}
    absent: tuple[str, ...] = ()


def recognise(state: Arrays, *, origin: str | None = None, grid: tuple[int, int] | None = None,
              num_heads: int | None = None, early_layers: int | None = None) -> Recognised:
    """The model in a file's tensors (names as in the file), whatever its kind and origin.

    origin: "ours" where it is known; otherwise it is recognised.  The other arguments say what weights cannot
    (`read_architecture`).  Raises CheckpointError where nothing or more than one kind fits, and says what was looked
    for; where tensors of the kind are missing or of another shape, and names them.
    """
    prefix, found, kind = "", "", ""
    ours: dict[str, np.ndarray] = {}
    for prefix in _PREFIXES:
        inner = {name[len(prefix):]: array for name, array in state.items() if name.startswith(prefix)}
        found = origin or _origin_of(inner)
        ours = KEYMAPS[found][0](inner) if found else {}
        fitting = _kinds_of(ours)
        if len(fitting) > 1:
            raise CheckpointError(f"it could be {' or '.join(fitting)}. {_looked_for()} {_names(state)}")
        if fitting:
            kind = fitting[0]
            break
    else:
        raise CheckpointError(f"no kind of model was recognised. {_looked_for()} {_names(state)}")
    if found in ("clip", "dino"):
        found = "official"
    architecture = read_architecture(kind, ours, grid=grid or _stored_grid(state), num_heads=num_heads,
                                     early_layers=early_layers)
    shapes = shapes_of(kind, architecture)
    check_shapes(ours, shapes)
    weights = {name: ours[name] for name in shapes}
    there = translate(found, kind, weights, architecture)
    kept = {name: array for name, array in state.items()
            if not name.startswith(prefix) or not identical(there.get(name[len(prefix):]), array)}
    absent = tuple(sorted(name for name in there if prefix + name not in state))
    return Recognised(kind, found, weights, architecture, prefix, kept, absent)


def under_our_names(state: Arrays) -> dict[str, np.ndarray]:
    """A file's tensors under our names, whatever the model is missing; unchanged where no format was recognised.

    Tensors that stand beside the model in a released file (a tokenizer's teacher) are left out.
    """
    for prefix in ("", "module."):
        inner = {name[len(prefix):]: array for name, array in state.items() if name.startswith(prefix)}
        found = _origin_of(inner)
        if found:
            ours = KEYMAPS[found][0](inner)
            return {name: array for name, array in ours.items() if not name.startswith(_BESIDE)}
    return dict(state)


def check_shapes(ours: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """CheckpointError naming the tensors that are missing or have another shape."""
    missing = [name for name in shapes if name not in ours]
    wrong = [f"{name} {tuple(ours[name].shape)} instead of {shape}" for name, shape in shapes.items()
             if name in ours and tuple(ours[name].shape) != tuple(shape)]
    for names, what in ((missing, "missing"), (wrong, "of another shape")):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise CheckpointError(f"{what}: {', '.join(names[:4])}{more}. The file is incomplete or damaged.")


def _origin_of(state: Arrays) -> str:
    """Whose names these are; empty where no linear layer was found that tells."""
    names = set(state)
    if any(name.endswith("class_embedding") for name in names) and any(n.endswith("conv1.weight") for n in names):
        return "clip" if _torch_layout(state) else "ours"
    if any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in names):
        return "huggingface"
    torch = _torch_layout(state)
    if torch is None:
        return ""
    if not torch:
        fused = any(name.endswith("attn.qkv.bias") for name in names)
        tables = any(name.endswith(TABLE) for name in names) or "head.fc_head.weight" in names
        return "paddleclas" if fused and tables else "ours"
    if any(name.endswith("attn.qkv.bias") for name in names):
        return "dino"
    indexed = any(name.endswith(INDEX) for name in names)
    trunk_only = not any(name.startswith(("encoder.", "backbone.", "decode_head.", "lm_head.")) for name in names)
    return "timm" if trunk_only and not indexed and any(name.endswith(TABLE) for name in names) else "official"


def _torch_layout(state: Arrays) -> bool | None:
    """True where linear weights are (out, in), False where (in, out); None without one that tells."""
    answers = set()
    for name, array in state.items():
        ending = next((end for end in _LINEARS if name.endswith(end)), None)
        if ending is None or array.ndim != 2 or array.shape[0] == array.shape[1]:
            continue
        norm = state.get(name[: -len(ending)] + ("ln_1.weight" if ".resblocks." in name else "norm1.weight"))
        if norm is not None:
            width = norm.shape[0]
            grows = not ending.startswith("mlp.fc2")
            answers.add(array.shape[1 if grows else 0] == width)
    if len(answers) > 1:
        raise CheckpointError("some linear weights are (out, in) and some (in, out). The file mixes two formats, or "
                              "its shapes are damaged.")
    return answers.pop() if answers else None


def _kinds_of(ours: Arrays) -> list[str]:
    return [kind for kind, (needed, forbidden) in KINDS.items()
            if all(name in ours for name in needed) and not any(name in ours for name in forbidden)]


def _stored_grid(state: Arrays) -> tuple[int, int] | None:
    """The window an index buffer of the file was made for, where it is not square."""
    for name, index in state.items():
        if name.endswith(INDEX):
            table = state.get(name[: -len(INDEX)] + TABLE)
            return window_of(len(table), index) if table is not None else None
    return None


def identical(there: np.ndarray | None, array: np.ndarray) -> bool:
    """Bit for bit the same; views of one place in memory are not read."""
    if there is None or there.dtype != array.dtype or there.shape != array.shape:
        return False
    if there.__array_interface__["data"][0] == array.__array_interface__["data"][0] and there.strides == array.strides:
        return True
    bits = f"u{there.dtype.itemsize}" if there.dtype.itemsize <= 8 else there.dtype
    return bool(np.array_equal(there.view(bits), array.view(bits)))


def _looked_for() -> str:
    return "Looked for: " + "; ".join(f"{kind} ({', '.join(names)})" for kind, (names, _) in KINDS.items()) + "."


def _names(state: Arrays) -> str:
    names = list(state)
    return f"Found {len(names)} tensors: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}."
