# SPDX-License-Identifier: Apache-2.0
from .api import evaluate as evaluate
from .api import finetune as finetune
from .api import predict as predict

__version__: str

def register() -> list[str]: ...
