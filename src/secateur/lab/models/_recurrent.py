"""Recurrent nets that read an image row by row: a linear projection, one LSTM or GRU, a classifier.

Source: arXiv 1810.02340, §5.3, LSTM-s/b and GRU-s/b. The paper does not print the cell; its parameter counts
identify it (rows → h projection, h → h cell, h → classes).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur._base.errors import SecateurError
from secateur.lab.data import rows


class RowReader(nn.Module):
    """Project each row, run the cell from a zero state, classify by the last output.

    Args:
        features: numbers in a row.
        cell: a one-layer LSTM or GRU, batch first, with as many inputs as units.
        num_classes: units of the classifier.
    """

    def __init__(self, features: int, cell: nn.LSTM | nn.GRU, num_classes: int) -> None:
        super().__init__()
        self.project = nn.Linear(features, cell.input_size)
        self.cell = cell
        self.head = nn.Linear(cell.hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [batch, channel, row, column] or sequences [batch, step, feature] to scores."""
        outputs, _ = self.cell(self.project(rows(x)))
        return self.head(outputs[:, -1])


def lstm(in_shape: tuple[int, ...], num_classes: int, *, units: int, forget_bias: float = 1.0) -> RowReader:
    """Return an LSTM that reads rows. N = 136,586 (128 units) or 535,306 (256) for rows of 28, 10 classes.

    The paper prints 137k and 536k. The second is at least 194 parameters more than the cell described has;
    peepholes (3·units) and a learned initial state (2·units) both fit all printed counts, so neither is
    added.

    Args:
        in_shape: (channel, row, column).
        num_classes: units of the last layer.
        units: h, of the projection and of the cell.
        forget_bias: a constant added to the forget gate, as TensorFlow's cells do. It is no parameter: SNIP's
            own protocol prunes all biases, and without it a cell would forget half of its state at each step.
    """
    cell = nn.LSTM(units, units, batch_first=True)
    constant = torch.zeros(4 * units)
    constant[units : 2 * units] = forget_bias  # PyTorch's gates: input, forget, cell, output
    _hold_constant(cell, constant)
    return RowReader(_features(in_shape), cell, num_classes)


def gru(in_shape: tuple[int, ...], num_classes: int, *, units: int) -> RowReader:
    """Return a GRU that reads rows. N = 103,690 (128 units) or 403,978 (256) for rows of 28, 10 classes.

    Args:
        in_shape: (channel, row, column).
        num_classes: units of the last layer.
        units: h, of the projection and of the cell.
    """
    cell = nn.GRU(units, units, batch_first=True)
    _hold_constant(cell, torch.zeros(3 * units))
    return RowReader(_features(in_shape), cell, num_classes)


def _features(in_shape: tuple[int, ...]) -> int:
    if len(in_shape) != 3 or min(in_shape) < 1:
        raise SecateurError(f"`in_shape` must be (channels, rows, columns), each at least 1, got {in_shape}.")
    return in_shape[0] * in_shape[2]


def _hold_constant(cell: nn.LSTM | nn.GRU, constant: Tensor) -> None:
    """Replace the second bias vector by a constant buffer of the same name.

    PyTorch's cells carry two bias vectors for cuDNN's sake, where a cell has one; as a buffer, the second is
    neither learned, decayed, pruned nor counted, and the keys of the state_dict stay those of an ordinary
    cell.
    """
    del cell.bias_hh_l0
    cell.register_buffer("bias_hh_l0", constant)
