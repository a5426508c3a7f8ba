import shutil

import pytest

from capo.diffusion import checkpoint_identity, resolve_checkpoint


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
