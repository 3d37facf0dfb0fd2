"""The command line: exit statuses, sentences, JSON alone on stdout."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import secateur
from secateur.cli import main
from secateur.lab.repeat import read_json

RUN = ["run", "--steps", "6", "--runs", "r"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SECATEUR_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_help_reads_like_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    page = capsys.readouterr().out
    for word in (
        "demo",
        "run",
        "paper",
        "prune",
        "methods",
        "show",
        "doctor",
        "bench",
        "--sparsity 95%",
        "Exit status",
    ):
        assert word in page


@pytest.mark.parametrize("command", ["demo", "run", "paper", "prune", "methods", "show", "doctor", "bench"])
def test_every_option_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from secateur.cli import build_parser

    assert main([command, "--help"]) == 0
    assert len(capsys.readouterr().out) > 300
    choices: Any = build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    for action in choices[command]._actions:
        assert action.help, f"secateur {command} {action.option_strings or action.dest} has no help"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"secateur {secateur.__version__}\n"


def test_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "secateur", "runn"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2 and done.stdout == ""
    assert "got 'runn'. Did you mean 'run'?" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runn"], "COMMAND must be one of .*, got 'runn'. Did you mean 'run'?"),
        (["run", "--denisty", "0.1"], "secateur run: unknown option '--denisty'. Did you mean '--density'?"),
        (["run", "--denisty=0.1"], "unknown option '--denisty'. Did you mean '--density'?"),
        (["run", "mnist"], "unknown argument 'mnist'."),
        (["run", "--method", "snipp"], "secateur run: --method must be one of .*got 'snipp'. Did you mean 'snip'?"),
        (["run", "--compare", "snip,randm"], "got 'randm'. Did you mean 'random'?"),
        (["run", "--data", "mnits"], "secateur run: --data must be one of .*got 'mnits'. Did you mean 'mnist'?"),
        (
            ["run", "--model", "lenet-300-10"],
            "secateur run: --model must be one of .*got 'lenet-300-10'. Did you mean 'lenet-300-100'?",
        ),
        (["cost", "lenet-300"], "secateur cost: the network must be one of .*Did you mean 'lenet-300-100'?"),
        (["bench", "lenet-300"], "secateur bench: the network must be one of .*got 'lenet-300'."),
        (["run", "--runs", __file__], "secateur run: --runs .* cannot be made: .* or name another directory."),
        (["run", "--recipe", "shrt"], "got 'shrt'. Did you mean 'short'?"),
        (["run", "--protocol", "papre"], "--protocol must be one of common, paper, got 'papre'. Did you mean 'paper'?"),
        (["run", "--init", "vsx"], "Did you mean 'vs-x'?"),
        (["run", "--method", "force", "--option", "round=3"], "Did you mean 'rounds'?"),
        (["run", "--option", "rounds"], "expected name=value, got 'rounds'."),
        (["run", "--density", "5"], "`density` must be in (0, 1], got 5. Did you mean density=0.05 (keep 5 %)?"),
        (["run", "--sparsity", "95"], "the sparsity must be in [0, 1), got '95'. Did you mean 95%?"),
        (["run", "--density", "0.1", "--sparsity", "90%"], "not allowed with argument"),
        (["run", "--method", "dense", "--density", "0.1"], "dense prunes nothing: leave out --density"),
        (["run", "--device", "cuda:99"], "--device 'cuda:99' is not available here"),
        (["run", "--device", "gpu"], "--device 'gpu' is not available here"),
        (["run", "--on", "rya"], "--on must be one of local, ray, got 'rya'. Did you mean 'ray'?"),
        (["run", "--on", "ray", "--jobs", "2"], "--jobs is for --on local"),
        (["run", "--address", "head:6379"], "add --on ray, got --address head:6379 alone."),
        (["run", "--seeds", "0"], "expected a whole number of at least 1, got '0'."),
        (["methods", "snipp"], "there is no method 'snipp'. Did you mean 'snip'?"),
        (["show"], "the following arguments are required: PATH"),
        (["show", "nowhere"], "there is nothing at nowhere."),
    ],
)
def test_wrong_words_are_status_2_and_name_the_nearest(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(re.escape(message).replace(r"\.\*", ".*"), captured.err), captured.err
    assert re.search(r"See `secateur.* --help`\.", captured.err)
    assert not (tmp_path / "runs").exists()


def test_one_run_in_words_and_again_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--sparsity", "95%"]) == 0
    first = capsys.readouterr()
    assert "2,510 of 50,200: 5.0 % kept · 95.0 % sparse · 20×" in first.out
    assert re.search(r"test error +\d+\.\d\d % after the last of 6 steps", first.out)
    assert first.err == ""  # no bars where there is no terminal
    assert main([*RUN, "--density", "0.05"]) == 0  # the same experiment
    assert capsys.readouterr().out == first.out


def test_run_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--compare", "snip,dense", "--seeds", "2", "--seed", "5", "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert captured.err == ""
    assert set(document) == {"format", "rows", "results", "failures"} and document["failures"] == []
    assert [(row["method"], row["density"], row["seeds"]) for row in document["rows"]] == [
        ("snip", 0.05, [5, 6]),
        ("dense", 1, [5, 6]),
    ]
    for row in document["rows"]:
        assert set(row) == {
            "method",
            "density",
            "seeds",
            "test_error",
            "best_test_error",
            "kept",
            "bytes",
            "train_seconds",
        }
        errors = [r["test_error"] for r in document["results"] if r["experiment"]["method"] == row["method"]]
        assert row["test_error"]["mean"] == pytest.approx(sum(errors) / 2)
    for result in document["results"]:
        assert read_json(Path(result["directory"], "result.json")).items() <= result.items()


def test_comparison_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--compare", "snip,random,dense", "--seeds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("lenet-300-100 on Digits, 6 steps")
    assert [line.split()[0] for line in lines[3:6]] == ["snip", "random", "dense"]
    assert all("±" in line for line in lines[3:6])


def test_run_understands_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--method force --option rounds=2 --option train=true --protocol paper --init vs-h --score-init rn"
    more = "--score-batch 20 --score-batches 2 --recipe paper-adam --batch 10 --engine torch --save-every 1 --quiet"
    assert main([*RUN, *words.split(), *more.split(), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["experiment"] == {
        "kind": "experiment",
        "model": "lenet-300-100",
        "data": "digits",
        "method": "force",
        "density": 0.05,
        "options": [["rounds", 2], ["train", True]],
        "score_batch": 20,
        "score_batches": 2,
        "initialiser": "vs-h",
        "score_initialiser": "rn",
        "redraw": True,
        "biases": True,
        "score_in_eval": True,
        "engine": "torch",
        "recipe": {
            "kind": "recipe",
            "steps": 6,
            "rate": {"kind": "constant", "value": 0.001},
            "optimizer": {"kind": "adam"},
            "batch": 10,
        },
    }


def test_run_trains_in_bfloat16(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--compare", "snip,dense", "--bf16", "--quiet", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [result["experiment"]["bf16"] for result in results] == [True, True]
    assert {result["engine"]["name"] for result in results} == {"torch"}
    assert main([*RUN, "--bf16", "--engine", "sparse"]) == 2
    assert "`engine` sparse does not fit this run: it trains in bfloat16" in capsys.readouterr().err


def test_run_prunes_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--compare", "snip,dense", "--block", "4x1", "--quiet", "--json"]) == 0
    blocked, dense = json.loads(capsys.readouterr().out)["results"]
    assert blocked["experiment"]["block"] == [4, 1] and "block" not in dense["experiment"]


def test_augmentation_is_asked_for_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--recipe", "paper-cifar"]) == 2
    said = capsys.readouterr().err
    assert "`augment` must be False for digits" in said and "--no-augment" in said and "mnist, cifar-10" in said
    assert main([*RUN, "--recipe", "paper-cifar", "--no-augment", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert "augment" not in result["experiment"]["recipe"] and result["experiment"]["recipe"]["batch"] == 128
    assert main([*RUN, "--augment", "--data", "mnist"]) == 1  # not refused; the data are not here
    assert "MNIST was not found" in capsys.readouterr().err


def test_missing_data_is_status_1_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--data", "mnist", "--compare", "snip,dense", "--seeds", "2"]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("test error") == 0
    assert captured.err.count("MNIST was not found") == 1 and "(and 3 more) failed" in captured.err


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([*RUN, "--plot", "errors.png"]) == 1
    assert "pip install '.[lab]' in a clone of Secateur" in capsys.readouterr().err


def test_a_cluster_needs_ray(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*RUN, "--on", "ray"]) == 1
    assert "running on a cluster needs Ray: pip install '.[ray]' in a clone of Secateur" in capsys.readouterr().err


def test_methods_lists_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    programs = {name: getattr(secateur.programs, name).__doc__ or "" for name in secateur.programs.__all__}
    of_family = [name for name, text in programs.items() if "Family:" in text]
    assert set(entries) == {name.rstrip("_") for name in (*secateur.methods.__all__, *of_family)}
    assert {"imp", "prac", "gal", "iterative_lwc"} <= set(of_family)
    assert entries["snip"]["arxiv"] == "1810.02340" and entries["snip"]["needs"] == "labels"
    assert entries["force"]["options"] == {"rounds": ["int"], "train": ["bool"]}
    assert main(["methods"]) == 0
    table = capsys.readouterr().out
    assert all(re.search(rf"^{name} ", table, re.MULTILINE) for name in entries)
    assert entries["variational_dropout"]["aliases"] == ["svd"] and entries["snip"]["aliases"] == []
    assert main(["methods", "force"]) == 0
    page = capsys.readouterr().out
    assert "arXiv 2006.09081" in page and "--option rounds=int, train=bool" in page


def test_an_alias_is_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    pages = []
    for name in ("svd", "variational_dropout"):
        assert main(["methods", name]) == 0
        pages.append(capsys.readouterr().out)
    assert pages[0] == pages[1] and "Alias: svd." in pages[0]
    names, aliases = set(secateur.catalogue()), [each for e in secateur.catalogue().values() for each in e.aliases]
    assert len(aliases) == len(set(aliases)) and not names & set(aliases)
    assert main(["run", "--data", "digits", "--method", "svd", "--steps", "10", "--quiet"]) == 0
    assert [path.name.rpartition("-digits")[0] for path in Path("runs").iterdir()] == [
        "variational-dropout-lenet-300-100"
    ]


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur._base import door

    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["secateur"] and report["versions"]["torch"]
    assert report["native"] == {
        "active": door.native is not None,
        "isa": door.isa(),
        "bfloat16": door.native and door.native.half_set(),
        "why_not": door.why_not,
    }
    assert report["data"]["mnist"] is None and report["data"]["digits"] == "in the package"
    monkeypatch.setattr(door, "native", None)
    monkeypatch.setattr(door, "why_not", "switched off by SECATEUR_NATIVE")
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert "torch fallback: switched off by SECATEUR_NATIVE" in page and re.search(r"data mnist +not found", page)


def test_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.cli.runs import asked

    def interrupt(*ignored: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(asked, "run_all", interrupt)
    assert main(RUN) == 130
    assert "The same command goes on from the last checkpoint." in capsys.readouterr().err
