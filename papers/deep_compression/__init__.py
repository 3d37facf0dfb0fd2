"""Deep Compression (arXiv 1510.00149): the LeNet rows, `secateur paper deep_compression table1`."""

from __future__ import annotations

from papers.deep_compression import smallest, table1

TITLE = "Deep Compression, ICLR 2016"

ABOUT = """
*Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman Coding*, S. Han, H.
Mao, W. J. Dally (arXiv 1510.00149), as far as it goes without ImageNet. This page is written by `secateur paper
deep_compression page` from the files `papers/deep_compression/*.expected.json`, which the command below fills. A
number agrees with the paper's if it is at most 0.3 points or two of our standard deviations above it.
"""

ARTEFACTS = (table1.ARTEFACT, smallest.ARTEFACT)
