"""Published data sets brought here from a server of the test's own: checked, resumed, never half there."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from secateur import SecateurError
from secateur.cli import main
from secateur.lab import data
from secateur.lab.data import _get, _sources
from secateur.lab.data._find import Published

FILES = {"train.gz": bytes(range(256)) * 5000, "labels.gz": b"labels" * 1000}


@dataclass
class Served:
    """What the server was asked for, and how it misbehaves."""

    address: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    stops_after: int | None = None
    knows_ranges: bool = True
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))


@pytest.fixture
def server() -> Iterator[Served]:
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, wanted = self.path.rpartition("/")[2], self.headers.get("Range")
            served.asked.append((name, wanted))
            if name not in served.files:
                self.send_error(404)
                return
            content, begin = served.files[name], 0
            if wanted and served.knows_ranges:
                begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            self.wfile.write(content[begin : None if served.stops_after is None else begin + served.stops_after])

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    served.address = f"http://127.0.0.1:{listening.server_address[1]}/mnist"
    yield served
    listening.shutdown()
    listening.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST of two small files, whose md5 is theirs."""
    sums = {name: hashlib.md5(content).hexdigest() for name, content in FILES.items()}
    files = tuple(Published(f"MNIST/raw/{name}", md5) for name, md5 in sums.items())
    from dataclasses import replace

    monkeypatch.setitem(_sources.SOURCES, "mnist", replace(_sources.SOURCES["mnist"], variants=(files,)))


def test_files_come_once_and_lie_where_they_are_looked_for(server: Served, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    found = data.get("mnist", tmp_path, address=server.address, on_bytes=lambda *each: told.append(each))
    assert [file.read_bytes() for file in found] == list(FILES.values())
    assert data.whereabouts(tmp_path)["mnist"] == str(tmp_path)
    assert told[-1] == ("labels.gz", 6000, 6000)
    assert data.get("mnist", tmp_path, address=server.address) == found and len(server.asked) == 2
    found[1].write_bytes(b"damaged")  # brought anew
    assert data.get("mnist", tmp_path, address=server.address)[1].read_bytes() == FILES["labels.gz"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_goes_on(server: Served, tmp_path: Path, ranges: bool) -> None:
    server.stops_after, server.knows_ranges = 300_000, ranges
    with pytest.raises(data.DataError, match="did not come: it broke off after 300,000 of 1,280,000 bytes"):
        data.get("mnist", tmp_path, address=server.address)
    assert [file.name for file in (tmp_path / "MNIST" / "raw").iterdir()] == ["train.gz.part"]
    server.stops_after = None
    found = data.get("mnist", tmp_path, address=server.address)
    assert server.asked[1] == ("train.gz", "bytes=300000-")
    assert [file.read_bytes() for file in found] == list(FILES.values())
    assert not list(tmp_path.rglob("*.part"))


def test_a_file_that_was_whole_when_it_broke_off_is_taken(server: Served, tmp_path: Path) -> None:
    part = tmp_path / "MNIST" / "raw" / "train.gz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(FILES["train.gz"])
    assert data.get("mnist", tmp_path, address=server.address)[0].read_bytes() == FILES["train.gz"]


def test_another_file_than_the_published_one_is_refused_and_removed(server: Served, tmp_path: Path) -> None:
    server.files["labels.gz"] = b"something else"
    with pytest.raises(data.DataError, match=r"is not the published file: its md5 must be [0-9a-f]{32}, got .*14 b"):
        data.get("mnist", tmp_path, address=server.address)
    assert [file.name for file in (tmp_path / "MNIST" / "raw").iterdir()] == ["train.gz"]


def test_what_the_server_does_not_have_is_told(server: Served, tmp_path: Path) -> None:
    del server.files["train.gz"]
    with pytest.raises(data.DataError, match=r"train\.gz did not come: Not Found.*--from URL"):
        data.get("mnist", tmp_path, address=server.address)
    with pytest.raises(data.DataError, match="did not come"):
        data.get("mnist", tmp_path, address="http://127.0.0.1:1/", timeout=2)


@pytest.mark.parametrize(
    ("name", "address", "words"),
    [("mnits", None, "Did you mean 'mnist'"), ("digits", None, "must be one of"), ("mnist", "file:///etc", "http://")],
)
def test_wrong_words_are_refused(name: str, address: str | None, words: str, tmp_path: Path) -> None:
    with pytest.raises(SecateurError, match=words):
        data.get(name, tmp_path, address=address)
    assert not list(tmp_path.iterdir())


def test_every_address_names_files_with_a_published_md5() -> None:
    for name, address in _get.ADDRESSES.items():
        assert address.startswith("http") and address.endswith("/")
        assert all(file.md5 for file in _sources.SOURCES[name].variants[-1])


def test_from_the_command_line(
    server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path))
    assert main(["data", "get", "MNIST", "--from", server.address]) == 0
    said = capsys.readouterr()
    assert "mnist is here, its md5 as published" in said.out and "(1.28 MB)" in said.out and said.err == ""
    assert main(["data"]) == 0
    assert str(tmp_path) in capsys.readouterr().out
    assert main(["data", "get"]) == 2
    assert "the name of a data set is missing" in capsys.readouterr().err
