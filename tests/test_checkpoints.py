"""Files of tensors: every byte is as it was written, or the file is refused."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from sgan import checkpoints
from sgan.checkpoints import CheckpointError
from sgan.config import Options
from sgan.data import load_dataset
from sgan.files import append_line, write_atomic
from sgan.sample import main as sample
from sgan.session import snapshot_metadata
from sgan.trainer import Trainer

TENSORS = {
    "weight": torch.arange(12, dtype=torch.float32).view(3, 4),
    "half": torch.full((5,), 0.5, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "none": torch.zeros(0, 2),
    "flags": torch.tensor([True, False]),
}
METADATA = {"options": {"preset": "digits-c4", "lr": 1e-3}, "class_names": ["glioma", 'a "quoted" one', "Grün"]}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "state.safetensors"
    checkpoints.write(path, TENSORS, METADATA)
    return path


def test_what_is_written_is_read(written: Path) -> None:
    tensors, metadata = checkpoints.read(written)
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_equal_content_gives_equal_bytes(written: Path, tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "again", TENSORS, METADATA)
    assert (tmp_path / "again").read_bytes() == written.read_bytes()


def test_any_flipped_bit_is_noticed(written: Path) -> None:
    """Of every byte one bit, drawn: lengths, header, the checksum and its name, padding, tensors."""
    content = bytearray(written.read_bytes())
    for place, bit in enumerate(np.random.default_rng(0).integers(8, size=len(content))):
        content[place] ^= 1 << int(bit)
        written.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"state\.safetensors is damaged"):
            checkpoints.read(written)
        content[place] ^= 1 << int(bit)
    written.write_bytes(content)
    checkpoints.read(written)


@pytest.mark.parametrize("change", ["bytes put in", "cut short", "appended", "two tensors of one shape exchanged"])
def test_other_changes_are_noticed(written: Path, change: str) -> None:
    content = written.read_bytes()
    if change == "two tensors of one shape exchanged":
        checkpoints.write(written, {"a": torch.zeros(8), "b": torch.ones(8)}, {})
        content = written.read_bytes()
        changed = content.replace(b'"a":', b'"c":').replace(b'"b":', b'"a":').replace(b'"c":', b'"b":')
        assert changed != content
    else:
        middle = len(content) // 2
        changed = {
            "bytes put in": content[:middle] + b"\0" + content[middle:],
            "cut short": content[:-1],
            "appended": content + b"\0",
        }[change]
    written.write_bytes(changed)
    with pytest.raises(CheckpointError, match="is damaged or incomplete"):
        checkpoints.read(written)


def test_files_from_before_the_checksum_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_file(TENSORS, path, {"sgan": json.dumps(METADATA)})
    tensors, metadata = checkpoints.read(path)
    assert metadata == METADATA
    assert torch.equal(tensors["weight"], TENSORS["weight"])


def test_the_sample_command_refuses_an_altered_snapshot(tmp_path: Path, tiny: Options) -> None:
    trainer = Trainer(tiny, load_dataset(tiny.data))
    path = tmp_path / "network-snapshot-000000.safetensors"
    checkpoints.write(path, trainer.snapshot(), snapshot_metadata(trainer))
    content = bytearray(path.read_bytes())
    for place in np.random.default_rng(1).integers(len(content), size=20).tolist():
        content[place] ^= 16
        path.write_bytes(content)
        result = CliRunner().invoke(sample, [str(path), "--out", str(tmp_path / "grid.png")])
        assert result.exit_code == 1
        assert f"{path} is damaged" in result.output
        content[place] ^= 16
    assert not (tmp_path / "grid.png").exists()


def test_a_file_that_may_not_be_read_is_not_called_damaged(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int) -> None:
        def read_bytes(self: Path) -> bytes:
            raise OSError(number, os.strerror(number), str(self))

        monkeypatch.setattr(Path, "read_bytes", read_bytes)

    fail(errno.EACCES)
    with pytest.raises(PermissionError, match=r"state\.safetensors"):
        checkpoints.read(written)
    fail(errno.EIO)
    with pytest.raises(CheckpointError, match="the disk cannot read it"):
        checkpoints.read(written)


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is raised while it is written, nothing stays behind, and the message names the file."""
    path = tmp_path / "file"
    write_atomic(path, b"before")
    for raised in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()):

        def fail(file: int, raised: BaseException = raised) -> None:
            raise raised

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(type(raised)) as caught:
                write_atomic(path, b"after")
        assert isinstance(raised, KeyboardInterrupt) or str(path) in str(caught.value)
        assert [file.name for file in tmp_path.iterdir()] == ["file"]
        assert path.read_bytes() == b"before"


def test_links_stay_and_lead_to_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    link.symlink_to(target)
    for content in (b"new", b"newer"):  # a link to nothing, and to a file
        write_atomic(link, content)
        assert link.is_symlink()
        assert target.read_bytes() == content
    assert [file.name for file in target.parent.iterdir()] == ["file"]


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomic(pipe, b"content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


def test_a_line_that_has_no_room_names_the_file(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    with pytest.raises(OSError, match=re.escape("No space left on device: '/dev/full'")):
        append_line(Path("/dev/full"), "line")


def test_the_file_and_its_folder_are_forced_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before it takes its place, the folder after."""
    events: list[str] = []
    fsync, rename = os.fsync, os.replace

    def synced(file: int) -> None:
        events.append("folder" if os.path.samestat(os.fstat(file), tmp_path.stat()) else "file")
        fsync(file)

    def renamed(old: Path, new: Path) -> None:
        events.append(f"{old.name} to {new.name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_atomic(tmp_path / "file", b"first", keep=tmp_path / "kept")
    write_atomic(tmp_path / "file", b"second", keep=tmp_path / "kept")
    assert events == ["file", ".file.tmp to file", "folder", "file", "file to kept", ".file.tmp to file", "folder"]
    assert (tmp_path / "kept").read_bytes() == b"first"
