# SPDX-License-Identifier: Apache-2.0
from .api.embed import embed as embed
from .api.evaluate import evaluate as evaluate
from .api.export import export as export
from .api.tokenize import tokenize as tokenize
from .api.train import pretrain as pretrain
from .config.load import load_config as load_config
from .inference.loaded import load_model as load  # noqa: F401
from .models.backbone import BEiTBackbone as BEiTBackbone
from .models.mim import BEiTForMaskedImageModeling as BEiTForMaskedImageModeling
from .models.quantizer import NormEMAQuantizer as NormEMAQuantizer
from .models.vqkd import VQKD as VQKD
from .teachers import build_teacher as build_teacher

__version__: str
