"""The run-time type checker that the test suite puts around every function of the package."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

# The PEP 484 tower lets an int stand where a float is declared, as every Python user expects of `density=1`.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
