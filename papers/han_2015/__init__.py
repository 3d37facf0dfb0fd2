"""Han et al. (arXiv 1506.02626): the LeNet rows and the figures, `secateur paper han_2015 table1`."""

from __future__ import annotations

from papers.han_2015 import figure5, figure6, table1

TITLE = "Learning both weights and connections, NIPS 2015"

ABOUT = """
*Learning both Weights and Connections for Efficient Neural Networks*, S. Han, J. Pool, J. Tran, W. J. Dally (arXiv
1506.02626), as far as it goes without ImageNet. This page is written by `secateur paper han_2015 page` from the files
`papers/han_2015/*.expected.json`, which the commands below fill. A number agrees with the paper's if it is at most 0.3
points or two of our standard deviations above it. Errors are those after the last step, on the test set.
"""

ARTEFACTS = tuple(module.ARTEFACT for module in (table1, figure5, figure6))
