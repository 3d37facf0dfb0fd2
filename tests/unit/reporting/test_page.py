"""The page of a report: it parses, loads nothing, names every layer, and what it draws is what the masks say."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, report, sparsify
from secateur.reporting import _report
from secateur.reporting._pictures import mask_picture, png
from secateur.sparse import BreakEven, Machine

NEVER = Machine("never", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=0.0),))
VOID = {"meta", "img", "rect", "line"}


class Page(HTMLParser):
    """Keeps what stands open, every attribute, and the text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: nn.Module, masks: dict[str, Tensor]) -> str:
    monkeypatch.setattr(_report, "sparsify", lambda model, masks, **_: sparsify(model, masks, machine=NEVER))
    report(net, Masks(masks), torch.zeros(2, 6), seconds=0.02).save(tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def pixels(content: bytes) -> Tensor:
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, kind = struct.unpack(">IIBB", content[16:26])
    assert (depth, kind) == (8, 0)
    place, data = 8, b""
    while place < len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        name, chunk = content[place + 4 : place + 8], content[place + 8 : place + 8 + size]
        assert struct.unpack(">I", content[place + 8 + size : place + 12 + size])[0] == zlib.crc32(name + chunk)
        data, place = data + (chunk if name == b"IDAT" else b""), place + 12 + size
    rows = torch.frombuffer(bytearray(zlib.decompress(data)), dtype=torch.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:]


def test_the_page_parses_loads_nothing_and_names_every_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    content = saved(tmp_path, monkeypatch, net, {"0.weight": torch.eye(5, 6) > 0, "2.weight": torch.ones(3, 5) > 0})
    page = Page(content)
    assert not page.open
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert "http:" not in content and "https:" not in content and "@import" not in content and "url(" not in content
    loads = [value for _, name, value in page.attributes if name in {"src", "href", "srcset", "data", "action"}]
    assert len(loads) == 2 and all(value.startswith("data:image/png;base64,") for value in loads)
    text = " ".join(page.text)
    for word in ("0.weight", "2.weight", "dense", "held", "sparse", "shrunk"):
        assert word in text
    assert ("meta", "content", "width=device-width, initial-scale=1") in page.attributes
    assert "prefers-color-scheme:dark" in content
    assert page.tags.count("svg") == 2


def test_names_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module('<script>alert("x")</script>&\x1b', nn.Linear(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            return next(iter(self.children()))(x)

    net = Sly()
    content = saved(tmp_path, monkeypatch, net, {next(iter(dict(net.named_parameters()))): torch.eye(3, 6) > 0})
    page = Page(content)
    assert "script" not in page.tags and not page.open and "\x1b" not in content
    assert '<script>alert("x")</script>&\\x1b.weight' in "".join(page.text)


def test_the_picture_of_a_small_mask_is_the_mask() -> None:
    mask = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    found = re.search('base64,([^"]+)', mask_picture(mask, "m"))
    assert found
    assert torch.equal(pixels(base64.b64decode(found[1])) == 0, mask.reshape(5, 6))


def test_a_large_mask_is_averaged() -> None:
    mask = torch.zeros(768, 384, dtype=torch.bool)
    mask[:384] = True
    mask[384:, ::2] = True
    found = re.search('base64,([^"]+)', mask_picture(mask, "m"))
    assert found
    grey = pixels(base64.b64decode(found[1]))
    assert grey.shape == (192, 192)
    assert not grey[:96].any() and set(grey[96:].unique().tolist()) == {128}


def test_a_written_picture_is_read_back() -> None:
    grey = torch.arange(12, dtype=torch.uint8).reshape(3, 4)
    assert torch.equal(pixels(png(grey)), grey)
