"""Words of the command line as values: exact decimals, helpful refusals."""

from __future__ import annotations

from argparse import ArgumentTypeError
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur._base.errors import SecateurError
from secateur.cli.text import values
from secateur.selection import check_density


@given(st.decimals(min_value=0, max_value=Decimal("99.9999"), places=4))
def test_sparsity_and_density_are_exact_complements(percent: Decimal) -> None:
    # In floats 1 − 0.95 is 0.050000000000000044, which would be another experiment than 0.05.
    assert values.sparsity(f"{percent}%") == float((100 - percent) / 100)
    assert values.sparsity(str(percent / 100)) == values.sparsity(f"{percent}%")


@pytest.mark.parametrize(
    ("text", "density"), [("0.05", 0.05), ("5%", 0.05), ("5 %", 0.05), ("1", 1.0), ("100%", 1.0), ("1e-3", 1e-3)]
)
def test_densities(text: str, density: float) -> None:
    assert values.density(text) == density


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", r"in \(0, 1\], got 0\. It is the fraction kept: density=0\.05 keeps 5 %\."),
        ("-0.1", r"in \(0, 1\], got -0.1\. It is the fraction kept"),
        ("101%", r"in \(0, 1\], got 101%\. It is the fraction kept"),
        ("1e-400", r"in \(0, 1\], got 1e-400\. It is the fraction kept"),
        ("nan", "expected a number such as 0.05 or 5%, got 'nan'"),
        ("inf", "expected a number such as 0.05 or 5%, got 'inf'"),
        ("few", "expected a number such as 0.05 or 5%, got 'few'"),
        ("", "expected a number such as 0.05 or 5%, got ''"),
    ],
)
def test_densities_refused(text: str, message: str) -> None:
    with pytest.raises(ArgumentTypeError, match=message):
        values.density(text)


@pytest.mark.parametrize(("text", "meant"), [("5", "0.05"), ("95", "0.05"), ("2.5", "0.025"), ("50", "0.5")])
def test_a_percentage_gets_the_same_sentence_from_the_library(text: str, meant: str) -> None:
    with pytest.raises(SecateurError) as library:
        check_density(float(text) if "." in text else int(text))
    with pytest.raises(ArgumentTypeError) as command_line:
        values.density(text)
    assert str(library.value) == str(command_line.value)
    kept = f"{float(meant) * 100:g}"
    assert str(library.value) == (
        f"`density` must be in (0, 1], got {text}. Did you mean density={meant} (keep {kept} %)?"
    )


def test_sparsities_refused() -> None:
    with pytest.raises(ArgumentTypeError, match=r"in \[0, 1\), got '95'\. Did you mean 95%\?"):
        values.sparsity("95")
    with pytest.raises(ArgumentTypeError, match=r"in \[0, 1\), got '100%'\."):
        values.sparsity("100%")


def test_numbers_lists_and_options() -> None:
    assert values.positive("100_000") == values.positive("100,000") == 100_000
    for text in ("0", "-1", "1.5", "x", "²"):
        with pytest.raises(ArgumentTypeError, match="whole number of at least"):
            values.positive(text)
    assert values.seconds("0.5") == 0.5
    for text in ("0", "-1", "nan", "inf", "soon"):
        with pytest.raises(ArgumentTypeError, match=f"expected a number of seconds above 0, got '{text}'"):
            values.seconds(text)
    with pytest.raises(ArgumentTypeError, match="expected names with commas between them, got ' , '"):
        values.names(" , ")
    assert [values.option(text)[1] for text in ("a=1", "a=0.5", "a=True", "a=false", "a=x=y")] == [
        1,
        0.5,
        True,
        False,
        "x=y",
    ]
    assert values.block("4x1") == values.block("4X1") == (4, 1)
    for text in ("4", "4x", "0x1", "4x1x1", "axb"):
        with pytest.raises(ArgumentTypeError, match=f"expected OUTPUTSxINPUTS, as 4x1, got '{text}'"):
            values.block(text)
    for text in ("a", "=1", "a b=1"):
        with pytest.raises(ArgumentTypeError, match="expected name=value"):
            values.option(text)
