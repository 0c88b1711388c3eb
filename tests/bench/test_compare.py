"""`make bench compare`: a commit that made something dearer by more than the limit fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import compare
from bench.scenarios import Sizes

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="epoll and /proc"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits; the newer one is checked out, and an event costs there what the file `cost` says."""
    monkeypatch.setattr(compare, "BUILD", tmp_path / "build")
    monkeypatch.setattr(compare, "build", lambda: None)
    monkeypatch.setattr(compare.os, "sched_setaffinity", lambda *_: None)
    folder = tmp_path / "tree"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for cost in ("100", "104"):
        (folder / "cost").write_text(cost)
        git(folder, "add", "cost")
        git(folder, "commit", "--quiet", "--message", cost)
    return folder


def costs(root: Path, _: Sizes) -> float:
    return float((root / "cost").read_text())


def same(_root: Path, _sizes: Sizes) -> float:
    return 7.0


CASES: dict[str, compare.Case] = {"event": costs, "other": same}


def test_within_the_limit_it_passes(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(["HEAD~1", "--pairs=3"], cases=CASES, root=repository) == 0
    assert "ok    event            1.040x (1.040-1.040)  104.0 us, was 100.0" in capsys.readouterr().out


def test_a_slowed_tree_fails_and_is_named(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "cost").write_text("106")  # not committed: what is in the tree counts

    assert compare.main(["HEAD~1"], cases=CASES, root=repository) == 1

    out = capsys.readouterr().out
    assert "MORE  event            1.060x" in out
    assert "ok    other            1.000x" in out


def test_the_limit_can_be_set_and_a_case_chosen(repository: Path) -> None:
    assert compare.main(["HEAD~1", "--limit=3"], cases=CASES, root=repository) == 1
    assert compare.main(["HEAD~1", "other", "--limit=3"], cases=CASES, root=repository) == 0


def test_one_disturbed_pair_does_not_count() -> None:
    compared = compare.Comparison("event", [(100, 100), (190, 100), (101, 100)], 0.05)
    assert compared.holds
    assert not compare.Comparison("event", [(106, 100), (100, 100), (107, 100)], 0.05).holds


def test_every_second_pair_begins_with_the_other_commit(tmp_path: Path) -> None:
    order: list[str] = []

    def case(root: Path, _: Sizes) -> float:
        order.append(root.name)
        return 1.0

    mine, other = tmp_path / "mine", tmp_path / "other"
    compare.compare({"event": case}, other, sizes=compare.TINY, pairs=3, limit=0.05, mine=mine)

    assert order == ["mine", "other", "other", "mine", "mine", "other"]


def test_the_work_tree_of_the_other_commit_is_removed(repository: Path) -> None:
    compare.main(["HEAD~1", "--pairs=1"], cases=CASES, root=repository)
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert list((repository.parent / "build").iterdir()) == []


def test_an_unknown_commit_is_an_error_of_its_own(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(["nonesuch"], cases=CASES, root=repository) == 2
    assert "FAILED: git rev-parse" in capsys.readouterr().out


@pytest.mark.extended
@pytest.mark.timeout(400)
def test_all_cases_run_tiny_against_the_newest_commit() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no repository")

    done = subprocess.run(
        [sys.executable, "-m", "bench.compare", "HEAD", "--tiny", "--pairs=1", "--limit=100000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()[-6:]] == list(compare.CASES)
