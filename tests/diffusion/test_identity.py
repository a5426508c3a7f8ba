import hashlib
import shutil

import pytest

from capo.diffusion import checkpoint_identity, resolve_checkpoint
from capo.store.manifest import differences


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "weights").write_bytes(b"12")
    (folder / "index").write_bytes(b"3")
    return folder


def test_the_identity_of_a_directory_depends_on_its_files_alone(checkpoint, tmp_path):
    identity = checkpoint_identity(str(checkpoint), None)
    moved = shutil.move(checkpoint, tmp_path / "elsewhere")
    assert checkpoint_identity(str(moved), None) == identity


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "unet" / "weights").write_bytes(b"21"),
        lambda folder: (folder / "index").rename(folder / "Index"),
        lambda folder: (folder / "extra").touch(),
        lambda folder: [
            (folder / "unet" / "weights").write_bytes(b"1"),
            (folder / "index").write_bytes(b"23"),
        ],
    ],
    ids=["bytes", "name", "file", "border"],
)  # fmt: skip
def test_any_change_of_a_file_changes_the_identity(checkpoint, change):
    identity = checkpoint_identity(str(checkpoint), None)
    change(checkpoint)
    assert checkpoint_identity(str(checkpoint), None) != identity


def test_hidden_files_do_not_count(checkpoint):
    identity = checkpoint_identity(str(checkpoint), None)
    (checkpoint / ".cache").mkdir()
    (checkpoint / ".cache" / "lock").touch()
    assert checkpoint_identity(str(checkpoint), None) == identity


def test_the_identity_of_a_hub_id_has_its_revision():
    assert checkpoint_identity("owner/model", "abc") == "owner/model@abc"
    assert checkpoint_identity("owner/model", None) == "owner/model@main"


def test_shapes_is_a_model_of_the_package():
    assert resolve_checkpoint("shapes").endswith("shapes/checkpoints/base")
    assert resolve_checkpoint("owner/model") == "owner/model"


def pipeline_folder(folder):
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "X", "unet": ["diffusers", "Y"]}')
    (folder / "unet/config.json").write_text("{}")
    (folder / "unet/weights.safetensors").write_bytes(b"12")
    return folder


FOREIGN = ["README.md", "sample.png", "notes.txt", "whole.safetensors", "unet/LICENSE.txt", "assets/a.json"]


@pytest.mark.parametrize("name", FOREIGN)
def test_files_that_nothing_reads_do_not_count(tmp_path, name):
    folder = pipeline_folder(tmp_path / "model")
    before = checkpoint_identity(str(folder), None)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    assert checkpoint_identity(str(folder), None) == before
    (folder / "unet/merges.txt").write_text("a b")
    assert checkpoint_identity(str(folder), None) != before


def test_documents_beside_other_weights_do_not_count(checkpoint):
    before = checkpoint_identity(str(checkpoint), None)
    for name in ("README.md", "a.PNG", "LICENSE"):
        (checkpoint / name).touch()
    assert checkpoint_identity(str(checkpoint), None) == before


def old_digest(root):
    """As version 0.1 computed it, over all files."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(hashlib.blake2b(path.read_bytes()).digest())
    return f"blake2b:{digest.hexdigest()}"


def test_what_earlier_versions_recorded_is_still_up_to_date(tmp_path):
    folder = pipeline_folder(tmp_path / "model")
    assert checkpoint_identity(str(folder), None) == old_digest(folder), (
        "without other files, nothing changes"
    )
    (folder / "README.md").write_text("mine")
    old, new = old_digest(folder), checkpoint_identity(str(folder), None)
    assert old != new
    assert differences({"w": f"Clip {old} x"}, {"w": f"Clip {new} x"}) == {}
    (folder / "unet/config.json").write_text("[]")
    assert differences({"w": old}, {"w": checkpoint_identity(str(folder), None)})


@pytest.mark.parametrize("name", ["./mv1", "../mv1", "/nowhere/mv1", "mv1", "models/sdxl/v1"])
def test_a_path_that_does_not_exist_is_no_hub_id(name):
    with pytest.raises(ValueError, match="does not exist"):
        checkpoint_identity(name, None)
