# SPDX-License-Identifier: Apache-2.0
"""Bricks of the models.  They import Paddle, `errors` and `rel_pos_index`, nothing else of the house.

Names of tensors end in their shape: x_BTD has the shape (B, T, D).  The letters mean the same in `layers/`, `models/`
and `engine/tasks/`:

    B  images of a batch
    N  patches of an image
    T  tokens of an image: 1 + N, the class token first
    Q  query tokens of an image: all T, or only those whose output is needed
    M  masked patches of a batch
    S  samples of a clustering: the features of a batch (B * N) or of several
    R  rows of a matrix, whatever they are
    D  width of a model
    H  attention heads
    E  width of a head
    F  hidden width of an MLP
    O  outputs of a linear map, such as the heads side by side (H * E)
    P  relative positions: rows of a bias table
    C  channels of an image, of a feature map, of a code
    K  codes of a codebook, means of a clustering
    V  width of the teacher's features
    h  rows of a grid, height of an image
    w  columns of a grid, width of an image
    i  rows after resizing
    j  columns after resizing
    1  an axis of length one, as other digits are lengths

Arguments that are the same everywhere go without: images (B, C, h, w); mask (B, N), True where a patch is hidden; bias
(1, H, T, T), added to the scores of attention; query_index (B, Q) int64, tokens whose output is needed, default all.
So do tensors of any shape: x, y, other, dy, tensor, tensors, gradient, gradients, parameter,
values, input, features, codes, plus, laid_out.
`tests/house/test_shape_suffixes.py` compares the names with this list.
"""
