"""BEiT v2 segmentation on PaddlePaddle: the home of UperNet and the PaddleSeg adapter."""

__version__ = "0.1.0"
