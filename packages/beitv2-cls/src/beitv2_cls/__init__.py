"""BEiT v2 classification on PaddlePaddle: fine-tuning, evaluation, nearest neighbours."""

__version__ = "0.1.0"
