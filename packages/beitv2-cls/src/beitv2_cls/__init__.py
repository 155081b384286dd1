"""BEiT v2 classification on PaddlePaddle: the home of fine-tuning, probing and the PaddleClas adapter."""

__version__ = "0.1.0"
