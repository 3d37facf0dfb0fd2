"""SNIP (arXiv 1810.02340), every table and figure by one command: `secateur paper snip_2019 table1`."""

from __future__ import annotations

from papers.snip_2019 import figure1, figure2, figure3, figure4, search, table1, table2, table3

TITLE = "SNIP, ICLR 2019"

ABOUT = """
*SNIP: single-shot network pruning based on connection sensitivity*, N. Lee, T. Ajanthan, P. H. S. Torr
(arXiv 1810.02340), over again: every table and figure by one command, each number beside the paper's. This page is
written by `secateur paper snip_2019 page` from the files `papers/snip_2019/*.expected.json`, which the commands below
fill. A number agrees with the paper's if it is at most 0.3 points or two of our standard deviations above it. Errors
are those after the last step, on the test set. *Kept* counts surviving parameters. Runs share a machine, which makes
them no measure of time: times are measured apart from them, by `--clock`, sparse and dense steps in turns in one
process, and are kept in `papers/snip_2019/*.cost.json`.
"""

ARTEFACTS = tuple(module.ARTEFACT for module in (table1, figure1, table2, table3, figure2, figure3, figure4, search))
