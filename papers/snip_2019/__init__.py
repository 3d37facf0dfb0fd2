"""SNIP (arXiv 1810.02340), every table and figure by one command: `secateur paper snip_2019 table1`."""

from __future__ import annotations

from papers.snip_2019 import claims, figure1, figure2, figure3, figure4, search, table1, table2, table3

TITLE = "SNIP, ICLR 2019"

ABOUT = """
*SNIP: single-shot network pruning based on connection sensitivity*, N. Lee, T. Ajanthan, P. H. S. Torr
(arXiv 1810.02340), over again: every table and figure by one command, each number beside the paper's. This page is
written by `secateur paper snip_2019 page` from the files `papers/snip_2019/*.expected.json`, which the commands below
fill. Compared are means: a number agrees with the paper's if it is at most 0.1 points and two standard errors above it
(of both, where the paper prints a deviation). Below three seeds, or in fewer steps than the paper's, it is not judged;
what the paper prints and we have not is not measured. Errors are those after the last step, on the test set. *Kept*
counts surviving weights; biases are neither cut nor counted, except *as published*: by the paper's count, which has
them, "98 %" of LeNet-300-100 is 97.85 %. Runs share a machine, which makes them no measure of time: times are measured
apart from them, by `--clock`, sparse and dense steps in turns in one process, in the thread's own processor time, and
are kept in `papers/snip_2019/*.cost.json`, by processor (those of *AMD EPYC* are wall time on a quiet machine, of an
older version).
"""

SUMMARY = claims.summary

ARTEFACTS = tuple(module.ARTEFACT for module in (table1, figure1, table2, table3, figure2, figure3, figure4, search))
