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

from secateur import Masks, SecateurError, report, sparsify
from secateur.reporting import Curve, _report
from secateur.reporting._pictures import mask_picture, png
from secateur.sparse import BreakEven, Machine

NEVER = Machine("never", onednn=False, break_evens=(BreakEven(size=64, batch=128, density=0.0),))
VOID = {"meta", "img", "rect", "line", "polyline"}


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


def test_pixels_scores_and_curves_are_drawn_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 4, 5), nn.ReLU(), nn.Linear(5, 24))
    mask = torch.rand(5, 24) < 0.4
    masks = Masks({"1.weight": mask, "3.weight": torch.ones(24, 5) > 0})
    images = torch.rand(6, 2, 3, 4)
    scores = {"1.weight": torch.where(mask, 100.0, 0.01), "3.weight": torch.zeros(24, 5)}
    loss = Curve("training <loss>", [(1, 2.0), (50, 1.0), (100, 0.5)])
    found = report(net, masks, images, seconds=0.02, scores=scores, curves=[loss])
    assert found.pixels is not None and found.pixels.name == "1.weight"
    expected = [[int(mask[:, [c * 12 + r * 4 + k for c in range(2)]].sum()) for k in range(4)] for r in range(3)]
    assert found.pixels.kept.tolist() == expected
    torch.testing.assert_close(found.pixels.mean, images.mean(dim=(0, 1)))
    first, second = found.layers
    assert first.scores is not None and second.scores is None  # no score above zero
    stay, went = first.scores
    assert (sum(stay.counts), sum(went.counts)) == (int(mask.sum()), int((~mask).sum()))
    assert (stay.low, stay.high) == pytest.approx((-2, 2))
    assert stay.counts[-1] == int(mask.sum()) and went.counts[0] == int((~mask).sum())
    found.save(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and "Kept pixels" in page.text and "Training" in page.text
    assert "training <loss>" in "".join(page.text) and '<polyline points="0.00,0.00 98.99,30.00 200.00,45.00"/>' in text


@pytest.mark.parametrize(
    ("first", "example"),
    [
        (nn.Conv2d(1, 24, (3, 8)), torch.rand(2, 1, 3, 8)),  # a convolution sees no pixel once
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(24, eps=0.5)), torch.rand(2, 1, 4, 6)),  # not the image's numbers
        (nn.Identity(), torch.rand(2, 24)),  # no image
    ],
)
def test_pixels_are_not_made_up(first: nn.Module, example: Tensor) -> None:
    net = nn.Sequential(first, nn.Flatten(), nn.Linear(24, 5))
    found = report(net, Masks({"2.weight": torch.rand(5, 24) < 0.5}), example, seconds=0.02)
    assert found.pixels is None


def test_scores_of_other_weights_are_refused() -> None:
    net, masks = nn.Linear(4, 3), Masks({"weight": torch.ones(3, 4) > 0})
    for wrong in ({"weight": torch.ones(4, 3)}, {"bias": torch.ones(3)}):
        with pytest.raises(SecateurError, match="`scores` must be of the masked weights"):
            report(net, masks, torch.zeros(1, 4), seconds=0.02, scores=wrong)
