"""Thousands of damaged archives: each is refused in a sentence, or read, in little time and memory.

Some dozens of each kind by default; SECATEUR_MUTANTS=20000 makes so many, SECATEUR_MUTANTS_SEED others. Three in
four have checksums that fit, so that what reads the inside meets the damage.
"""

from __future__ import annotations

import os
import random
import resource
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

import archive_cases
import secateur as sc
from secateur import archive
from secateur._base.errors import SecateurError

COUNT = int(os.environ.get("SECATEUR_MUTANTS", "60"))
SEED = int(os.environ.get("SECATEUR_MUTANTS_SEED", "0"))
NAMES = ["exact", "shared, gaps, huffman", "int8, bitmap, packed", "rounded", "version 1", "dense", "shrunk"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return archive_cases.corpus(tmp_path_factory.mktemp("corpus"))


def bits(state: dict[str, Tensor]) -> dict[str, object]:
    return {name: (tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).tolist()
                   if tensor.numel() else []) for name, tensor in state.items()}  # fmt: skip


@pytest.mark.timeout(120 + COUNT)
@pytest.mark.parametrize("name", NAMES)
def test_every_mutant_is_refused_in_a_sentence_or_read(name: str, corpus: dict[str, Path], tmp_path: Path) -> None:
    whole, path = corpus[name].read_bytes(), tmp_path / "mutant"
    written, refused, slowest = bits(archive.tensors_of(corpus[name])), 0, 0.0
    fresh = {key: tensor.clone() for key, tensor in archive_cases.net().state_dict().items()}
    model = archive_cases.net()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in range(COUNT):
        content, sealed = archive_cases.damaged(random.Random(f"{SEED} {name} {index}"), whole)
        path.write_bytes(content)
        began = time.process_time()
        try:
            found = archive.tensors_of(path)
            assert sealed or bits(found) == written, f"mutant {index} of seed {SEED} was read as another"
        except SecateurError as problem:
            refused += 1
            assert str(problem).isprintable(), f"mutant {index} of seed {SEED}: {problem!r}"
            if index % 4 == 0:  # a model that is refused is left as it was
                model.load_state_dict(fresh)
                with pytest.raises(SecateurError):
                    sc.load(path, model)
                assert all(torch.equal(tensor, fresh[key]) for key, tensor in model.state_dict().items())
        except Exception as problem:
            problem.add_note(f"mutant {index} of {name}, SECATEUR_MUTANTS_SEED={SEED}")
            raise
        slowest = max(slowest, time.process_time() - began)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    print(
        f"{name}: {refused} of {COUNT} mutants of seed {SEED} refused, the others read; {grown:.0f} MB more at most, "
        f"{slowest:.2f} s for the slowest"
    )
    assert grown < 500 and refused > COUNT // 4
