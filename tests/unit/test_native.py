"""The compiled kernels: switched off, on older processors, and the rule that keeps one build safe on all of them."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from secateur._base import door
from secateur.selection import topk_mask

ROOT = Path(__file__).resolve().parents[2]

needs_kernels = pytest.mark.skipif(door.native is None, reason=f"no kernels: {door.why_not}")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_everything_works_without_the_kernels() -> None:
    code = (
        "import torch; from secateur._base import door; from secateur.selection import topk_mask\n"
        "print(door.isa(), '|', door.why_not, '|', topk_mask({'w': torch.tensor([1., 3., 2.])}, 2))"
    )
    done = run(code, SECATEUR_NATIVE="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("none | switched off by SECATEUR_NATIVE | {'w': tensor([False,  True,  True])}")


def test_without_a_build_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECATEUR_NATIVE", raising=False)
    monkeypatch.setitem(sys.modules, "secateur._native", None)  # makes the import fail as if it were not there
    module, why_not = door._load()
    assert module is None
    assert why_not == "not built (secateur was not installed, or there was no C++ compiler)"


def test_kernels_from_other_sources_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECATEUR_NATIVE", raising=False)
    monkeypatch.setitem(
        sys.modules, "secateur._native", ModuleType("secateur._native")
    )  # says nothing of its interface
    with pytest.warns(UserWarning, match="the compiled kernels are not used: they were built from other sources"):
        module, why_not = door._load()
    assert module is None
    assert why_not == "built from other sources than these Python files; install again (make setup)"


@needs_kernels
def test_an_unknown_instruction_set_is_ignored_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECATEUR_NATIVE", raising=False)
    monkeypatch.setenv("SECATEUR_ISA", "avx3")
    before = door.isa()
    says = rf"SECATEUR_ISA must be one of portable.* on this machine, got 'avx3': it is ignored, .* use {before}"
    with pytest.warns(UserWarning, match=says):
        module, why_not = door._load()
    assert module is door.native and why_not is None and door.isa() == before


@needs_kernels
def test_every_instruction_set_selects_the_same() -> None:
    native = door.native
    assert native is not None
    best = native.isa()
    supported = native.supported_isas()
    assert supported[0] == "portable"
    values = torch.randn(100_003, generator=torch.Generator().manual_seed(1))
    mixed = {"a": values, "b": (values * 4).round().double(), "c": values[:63].bfloat16()}
    floats, doubles = {"d": values, "e": values[:63] * 2}, {"f": values.double()}
    scores = mixed | floats | doubles
    found = {}
    try:
        for isa in supported:
            native.use_isa(isa)
            assert door.isa() == isa
            found[isa] = topk_mask(mixed, 70_001) | topk_mask(floats, 5001) | topk_mask(doubles, 5001)
    finally:
        native.use_isa(best)
    for isa in supported[1:]:
        assert all(torch.equal(found[isa][name], found["portable"][name]) for name in scores), isa


def kernel_files() -> list[Path]:
    assert "native/*/*_kernel.cpp" in (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return sorted((ROOT / "native").glob("*/*_kernel.cpp"))


#: Files for instructions that no set has, and the flags that CMakeLists.txt compiles them with.
PAIRS = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vbmi2", "-mavx512bf16"]
SPECIAL = {"*_avx512_bf16.cpp": PAIRS, "*_amx.cpp": [*PAIRS, "-mamx-tile", "-mamx-bf16"]}
SPECIAL_FILES = [(path, flags) for name, flags in SPECIAL.items() for path in (ROOT / "native" / "half").glob(name)]
COUNTS = [*PAIRS[:4], "-mavx512vpopcntdq", "-DSECATEUR_HAVE_VPOPCNTDQ=1"]
SPECIAL_FILES += [(path, COUNTS) for path in (ROOT / "native" / "binary").glob("*_vpopcntdq.cpp")]


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") and shutil.which("nm")), reason="needs g++ and nm")
@pytest.mark.parametrize(
    ("source", "more"), [*((path, []) for path in kernel_files()), *SPECIAL_FILES], ids=lambda v: getattr(v, "name", "")
)
def test_kernels_share_no_function_between_instruction_sets(source: Path, more: list[str], tmp_path: Path) -> None:
    if more and platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("no such instructions here")
    # A weak symbol is kept once for the whole module: an AVX-512 copy would crash an older processor.
    target = tmp_path / "kernel.o"
    # -O1 inlines less than a release build: it leaves at least the same symbols, in half the time.
    flags = ["-std=c++17", "-O1", "-fPIC", "-fopenmp", "-DSECATEUR_ISA=portable", f"-I{ROOT / 'native'}", *more]
    subprocess.run(["g++", *flags, "-c", str(source), "-o", str(target)], check=True, timeout=100)
    listing = subprocess.run(["nm", "-C", str(target)], capture_output=True, text=True, check=True).stdout
    weak = [line for line in listing.splitlines() if re.search(r"^[0-9a-f]+ [WVu] ", line)]
    assert weak == []
