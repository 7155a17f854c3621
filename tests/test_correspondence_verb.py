"""`askd.correspondence` between two runs of the small world, and what it cannot compare."""
from __future__ import annotations

import pytest

from askd.correspondence import main
from askd.errors import CheckpointError, RecipeError
from tiny import distilled, world  # noqa: F401, fixtures


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]


def test_a_network_corresponds_to_itself_and_to_another_by_chance(distilled, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    student, teacher = str(distilled.of("student")), str(distilled.of("teacher"))
    main([student, student, "size=112", "faces=40", "out=itself"])
    itself = rows(capsys.readouterr().out)
    assert [row[1] for row in itself] == ["16", "32", "64", "128"]
    # 1 but for channels that are the same for all faces, as a whole block's may be in so small a world.
    alive = [float(row[2]) > 0.5 for row in itself]
    assert any(alive) and all(abs(float(row[2]) - float(row[3])) < 0.05 for row in itself), itself
    main([student, teacher, "faces=40"])
    other = rows(capsys.readouterr().out)
    assert [row[1] for row in other] == ["16", "32", "64", "128"]
    assert all(float(there[2]) < float(own[2]) for there, own, lives in zip(other, itself, alive) if lives)  # started at random
    assert f"{student} at 14 px against {teacher} at 112 px, 40 faces" in (tmp_path / "correspondence" / "correspondence.md").read_text()
    assert sorted(path.name for path in (tmp_path / "itself").iterdir()) == ["correspondence.md", "correspondence.png"]


def test_what_it_refuses(distilled, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    student = str(distilled.of("student"))
    for arguments, error, said in (
        ([student], RecipeError, "usage: python -m askd.correspondence STUDENT TEACHER"), ([student, student, "size=x"], RecipeError, "size must be a whole"),
        ([student, student, "size=113"], RecipeError, "at most 112"), ([student, student, "faces=3"], RecipeError, "at least 32"),
        ([str(tmp_path), student], CheckpointError, "is no run folder"), ([student, "nowhere"], CheckpointError, "train it first"),
        ([student, student, "data.sizs=3"], RecipeError, "did you mean data.sizes"),
    ):
        with pytest.raises(error, match=said):
            main(arguments)
    assert not list(tmp_path.iterdir())
