"""Folders and files that capo did not make are never written to, overwritten or removed."""

import json

import pytest

import fake_stages
from capo import pipeline
from capo.recipe import dump_recipe, parse_recipe
from capo.store import Run, WorkspaceError
from capo.store.claim import check_claimable, claim
from capo.store.replaced import replaced_folders
from capo.studies import load_study
from capo.studies.run_study import run_study

USERS_FILES = {
    "train/thesis.tex": "\\chapter{One}",
    "samples/photo.raw": "raw",
    "report/my.html": "<p>",
    "pairs.csv": "1,2",
    "prompts.txt": "a dog\na cat\n",
    "recipe.yaml": "name: mine  # a comment\n",
}


@pytest.fixture
def users_folder(tmp_path):
    for name, text in USERS_FILES.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(text)
    return tmp_path / "mine"


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("stage", [None, "prompts", "report"])
def test_no_command_runs_in_a_users_folder(users_folder, stage, monkeypatch):
    fake_stages.install(monkeypatch.setattr)
    recipe = parse_recipe(fake_stages.VALUES)
    with pytest.raises(WorkspaceError, match=r"not made by capo.*--run"):
        pipeline.run(recipe, users_folder, stage=stage, force=True)
    assert contents(users_folder) == USERS_FILES


def test_opening_a_users_folder_changes_nothing(users_folder):
    with pytest.raises(WorkspaceError, match=r"pairs\.csv"), Run.open(users_folder):
        pass
    assert contents(users_folder) == USERS_FILES


def test_an_empty_folder_is_claimed_even_after_an_interrupted_claim(tmp_path):
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".capo-tmp-.capo").write_text('{"ma')
    with Run.open(tmp_path):
        pass
    assert json.loads((tmp_path / ".capo").read_text())["kind"] == "run"
    assert not (tmp_path / ".capo-tmp-.capo").exists()


def test_a_study_directory_is_not_a_run_directory(tmp_path):
    claim(tmp_path, "study")
    check_claimable(tmp_path, "study", instead="")
    with pytest.raises(WorkspaceError, match="as a run directory"):
        check_claimable(tmp_path, "run", instead="")


def test_directories_of_version_0_1_stay_usable(tmp_path):
    """They have no marker: manifests make a run directory, locks of seeds a study."""
    with Run.open(tmp_path / "run") as run:
        run.artifact("samples").begin({})
    (tmp_path / "run/.capo").unlink()
    with Run.open(tmp_path / "run"):
        pass
    (tmp_path / "study").mkdir()
    (tmp_path / "study/.lock-seed-0").write_text("")
    check_claimable(tmp_path / "study", "study", instead="")


@pytest.mark.parametrize("text", ["[]", "{", "7", '{"schema": 1}'])
def test_json_files_of_others_do_not_make_a_run_directory(tmp_path, text):
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests/deployment.json").write_text(text)
    with pytest.raises(WorkspaceError, match="not made by capo"), Run.open(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_damaged_marker_is_named(tmp_path, text):
    (tmp_path / ".capo").write_text(text)
    with pytest.raises(WorkspaceError, match=r"\.capo is damaged"), Run.open(tmp_path):
        pass


# A user's files in a run directory of capo.


@pytest.fixture
def samples(tmp_path):
    with Run.open(tmp_path / "run") as run:
        artifact = run.artifact("samples")
        artifact.begin({"seed": 0})
        artifact.write_bytes("shard-0", b"data")
        with artifact.write_directory("best") as folder:
            (folder / "weights").write_bytes(b"weights")
        yield artifact


def test_names_like_those_of_temporary_files_are_kept(tmp_path):
    with Run.open(tmp_path) as run:
        run.artifact("samples").begin({"seed": 0})
        run.artifact("samples").write_bytes("best/weights", b"weights")
    users = [".tmp-notes", ".old-notes", "samples/best/.tmp-notes", "notes/.old-a/.tmp-b"]
    for name in users:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    refused = pytest.raises(WorkspaceError, match=r"best/\.tmp-notes: capo has no record")
    with Run.open(tmp_path) as run, refused:
        run.artifact("samples").begin({"seed": 1}, force=True)
    assert [(tmp_path / name).read_text() for name in users] == ["mine"] * 4


@pytest.mark.parametrize("committed", [False, True])
def test_remaking_an_artifact_never_removes_a_users_file(samples, committed):
    if committed:
        samples.commit()
    (samples.folder / "photo.raw").write_text("raw")
    with pytest.raises(WorkspaceError, match=r"photo\.raw: capo has no record"):
        samples.begin({"seed": 1}, force=True)
    assert samples.files() == ["best/weights", "shard-0"]
    (samples.folder / "photo.raw").unlink()
    samples.begin({"seed": 1}, force=True)
    assert not samples.folder.exists()


def test_a_run_refuses_a_users_file_before_any_work(tmp_path, monkeypatch):
    fake_stages.install(monkeypatch.setattr)
    recipe = parse_recipe(fake_stages.VALUES)
    pipeline.run(recipe, tmp_path / "run")
    (tmp_path / "run/report/my.html").write_text("mine")
    (tmp_path / "run/pairs.csv").write_text("1,2")  # outside of all artifact folders, where it does no harm
    fake_stages.calls.clear()
    changed = parse_recipe(fake_stages.VALUES | {"seed": 1})
    with pytest.raises(WorkspaceError, match=r"my\.html"):
        pipeline.run(changed, tmp_path / "run", force=True)
    assert fake_stages.calls == []
    (tmp_path / "run/report/my.html").rename(tmp_path / "run/my.html")
    pipeline.run(changed, tmp_path / "run", force=True)
    assert (tmp_path / "run/my.html").read_text() == "mine"
    assert (tmp_path / "run/pairs.csv").read_text() == "1,2"
    assert (tmp_path / "run/recipe.yaml").read_text() == dump_recipe(changed)


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("best/notes.txt", lambda a: a.remove("best")),
        ("best/notes.txt", lambda a: a.write_directory("best").__enter__()),
        ("shard-1", lambda a: a.write_bytes("shard-1", b"new")),
    ],
)
def test_a_users_file_is_neither_overwritten_nor_removed_with_its_folder(samples, place, change):
    (samples.folder / place).write_text("mine")
    with pytest.raises(WorkspaceError, match="no record"):
        change(samples)
    assert (samples.folder / place).read_text() == "mine"


def test_a_users_file_is_not_read_as_part_of_an_artifact(samples):
    (samples.folder / "best/extra.safetensors").write_bytes(b"?")
    assert "best/extra.safetensors" not in samples.files()
    with pytest.raises(WorkspaceError, match=r"extra\.safetensors"):
        samples.path("best")
    samples.commit()
    assert list(samples.manifest().files) == ["best/weights", "shard-0"]


def test_a_users_file_among_what_was_replaced_is_kept(samples):
    samples.begin({"seed": 1}, force=True)
    (replaced,) = replaced_folders(samples.run.path)
    (replaced.folder / "samples/photo.raw").write_text("raw")
    with pytest.raises(WorkspaceError, match=r"photo\.raw: capo has no record"):
        replaced.remove()
    assert (replaced.folder / "samples/photo.raw").read_text() == "raw"


def test_desktop_metadata_files_are_ignored(samples):
    (samples.folder / ".DS_Store").write_bytes(b"?")
    samples.path("best")
    samples.begin({"seed": 1}, force=True)
    assert not samples.folder.exists()
    (replaced,) = replaced_folders(samples.run.path)
    assert (replaced.folder / "samples/.DS_Store").read_bytes() == b"?"
    replaced.remove()


def test_an_artifact_begun_by_version_0_1_is_resumed_but_not_removed(samples):
    """That version kept no record of written files."""
    (samples.run.path / "manifests/samples.written.jsonl").unlink()
    with pytest.raises(WorkspaceError, match="no record"):
        samples.begin({"seed": 1}, force=True)
    samples.begin({"seed": 0})
    samples.commit()
    assert list(samples.manifest().files) == ["best/weights", "shard-0"]


def test_a_torn_line_of_the_record_is_ignored(samples):
    """A crash while the line was written; its file was never created."""
    record = samples.run.path / "manifests/samples.written.jsonl"
    record.write_bytes(record.read_bytes() + b'\n{"path": "shard-1", "by')
    again = Run(samples.run.path).artifact("samples")
    assert again.files() == ["best/weights", "shard-0"]
    samples.begin({"seed": 0})
    samples.write_bytes("shard-1", b"data")
    assert Run(samples.run.path).artifact("samples").read_bytes("shard-1") == b"data"


@pytest.mark.parametrize("old", [b"shard-0", b'"blake2b"', b"{", b"\n"])
def test_a_changed_line_of_the_record_is_named(samples, old):
    """A digest in it would become that of the committed file."""
    record = samples.run.path / "manifests/samples.written.jsonl"
    record.write_bytes(record.read_bytes().strip().replace(old, bytes([old[0] ^ 1]) + old[1:], 1))
    with pytest.raises(WorkspaceError, match=r"samples\.written\.jsonl is damaged"):
        Run(samples.run.path).artifact("samples").files()


def test_a_record_of_version_0_1_has_no_digests_of_its_lines(samples):
    record = samples.run.path / "manifests/samples.written.jsonl"
    rows = [json.loads(line) for line in record.read_text().split("\n") if line]
    record.write_text("\n".join(json.dumps({k: v for k, v in r.items() if k != "line"}) for r in rows))
    assert Run(samples.run.path).artifact("samples").files() == ["best/weights", "shard-0"]


def test_no_study_runs_in_a_users_folder(users_folder):
    with pytest.raises(WorkspaceError, match=r"not made by capo.*--to"):
        run_study(load_study("table1"), users_folder, force=True)
    assert contents(users_folder) == USERS_FILES
