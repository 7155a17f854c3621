"""benchmarks/backbones.py: its multiply-accumulates are those of a count by hand, and what is done is not done again."""
from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from askd.models.cmt import LMHSA

SOURCE = Path(__file__).resolve().parents[1] / "benchmarks" / "backbones.py"


@pytest.fixture(scope="module")
def costs():
    """The program as a module."""
    spec = importlib.util.spec_from_file_location("benchmarks_backbones", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Position(nn.Module):
    def __init__(self):
        super().__init__()
        self.lmhsa = LMHSA(6, heads=2, stride=2)

    def forward(self, x):
        return self.lmhsa(x, torch.zeros(2, 64, 16))


@pytest.mark.parametrize("network, side, channels, by_hand", [
    (nn.Conv2d(8, 16, 3, stride=2, padding=1), 10, 8, 16 * 5 * 5 * (8 * 3 * 3)),
    (nn.Conv2d(8, 8, 3, padding=1, groups=8), 10, 8, 8 * 10 * 10 * (3 * 3)),
    (nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), 4, 3, 48 * 5),
    # depthwise 2x2; query and projection of 64 positions, key and value of 16; per head 64 x 16 scores and their sums, 3 wide
    (Position(), 8, 6, 6 * 16 * 4 + 2 * 64 * 36 + 2 * 16 * 36 + 2 * 2 * 64 * 16 * 3),
])
def test_macs_are_those_of_a_count_by_hand(costs, network, side, channels, by_hand):
    assert costs.macs(network, torch.zeros(1, channels, side, side)) == by_hand


def test_the_published_work_of_iresnet50(costs):
    """6.3 GMACs at 112 x 112, as InsightFace states it."""
    with torch.device("meta"):
        assert costs.macs(costs.make_backbone("iresnet50"), torch.zeros(1, 3, 112, 112)) / 1e9 == pytest.approx(6.3, abs=0.05)


def test_lines_that_are_there_are_not_measured_again(costs, tmp_path, monkeypatch, capsys):
    out, asked = tmp_path / "backbones.jsonl", []

    def fake(name, batch, rounds):
        asked.append(name)
        return {"backbone": name, "parameters": 2_500_000, "macs": 3_000_000_000, "latency_ms": 4.0, "images_per_second": 5.0,
                "iresnet10_images_per_second": 20.0}

    monkeypatch.setattr(costs, "measure", fake)
    for names in ("iresnet18", "iresnet18,cmt_ti"):
        monkeypatch.setattr("sys.argv", ["backbones.py", f"backbones={names}", f"out={out}"])
        costs.main()
    assert asked == ["iresnet18", "cmt_ti"]
    assert [json.loads(line)["backbone"] for line in out.read_text().splitlines()] == asked
    assert "| cmt_ti | 2.50 | 3,000 | 4.0 | 5.0 | 0.250x |" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["backbones.py", "bacth=3"])
    with pytest.raises(SystemExit, match="usage"):
        costs.main()
