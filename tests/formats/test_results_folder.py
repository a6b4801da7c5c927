"""results_folder: what runs wrote is recognised by its marker, also through links."""

from __future__ import annotations

from pathlib import Path

from pipeline.formats.results_folder import MARKER, find_results_folder, mark


def test_folders_within_are_marked_too(tmp_path: Path) -> None:
    inner = tmp_path / "draw/ab12/pictures"
    inner.mkdir(parents=True)
    mark(tmp_path / "draw/ab12")
    assert (inner / MARKER).read_text().startswith("label2box wrote")
    assert not (tmp_path / "draw" / MARKER).exists()
    assert find_results_folder(inner / "a.png") == str(inner)
    copy = tmp_path / "holiday"
    inner.rename(copy)
    assert find_results_folder(copy) == str(copy)
    assert find_results_folder(tmp_path / "draw") is None


def test_links_into_results(tmp_path: Path) -> None:
    (tmp_path / "result/pictures").mkdir(parents=True)
    mark(tmp_path / "result")
    (tmp_path / "link").symlink_to(tmp_path / "result/pictures")
    assert find_results_folder(tmp_path / "link") == str(tmp_path / "link")
    (tmp_path / "result/pictures/a.png").touch()
    (tmp_path / "a.png").symlink_to(tmp_path / "result/pictures/a.png")
    assert find_results_folder(tmp_path / "a.png") == str(tmp_path / "result/pictures")


def test_results_of_earlier_versions(tmp_path: Path) -> None:
    for name, files in (("new", ("DONE", "cache_key.json")), ("old", ("DONE", "made_of.json")),
                        ("killed", (".lock", "cache_key.json"))):  # fmt: skip
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
        assert find_results_folder(tmp_path / name / "pictures") == str(tmp_path / name)
    run = tmp_path / "run"
    (run / "stages").mkdir(parents=True)
    (run / "config.yaml").write_text("name: another project\nstages: [a]\n")
    assert find_results_folder(run) is None
    (run / "config.yaml").write_text("saliency: {}\nname: cam\ncheckpoint: null\nstages: []\n")
    assert find_results_folder(run) == str(run)
