"""Pickles are read without running them: plain data comes out as `pickle` gives it, everything else is refused."""

from __future__ import annotations

import os
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from writers import pickle_batch

from sgan.data.plain_pickle import read_plain_pickle

REFUSED = "must be a pickle of dicts, lists, bytes, integers, strings and uint8 arrays, got: "


def read(path: Path, content: bytes) -> Any:
    (path / "p").write_bytes(content)
    return read_plain_pickle(path / "p")


def random_plain(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(6 if depth else 3)
    if kind == 0:
        return rng.randrange(-(2 ** rng.randrange(1, 80)), 2 ** rng.randrange(1, 80))
    if kind == 1:
        return "".join(map(chr, rng.sample([*range(128), 0xE9, 0x1F600], rng.randrange(20))))
    if kind == 2:
        return rng.randbytes(1 + rng.randrange(300))
    if kind == 3:
        return {rng.choice([f"k{i}", i, b"b%d" % i]): random_plain(rng, depth - 1) for i in range(rng.randrange(5))}
    return [random_plain(rng, depth - 1) for _ in range(rng.randrange(6))]


@pytest.mark.parametrize("protocol", [1, 2, 3, 4])
def test_plain_data_comes_as_pickle_gives_it(tmp_path: Path, protocol: int) -> None:
    rng = random.Random(protocol)
    for _ in range(60):
        value = random_plain(rng, 4)
        shared = [value, value, {"again": value}]  # from the memo
        assert read(tmp_path, pickle.dumps(shared, protocol)) == shared


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_as_pickle_gives_them(tmp_path: Path, protocol: int, order: Any) -> None:
    first = np.random.default_rng(0).integers(1, 256, size=(3, 4, 5), dtype=np.uint8).copy(order=order)
    got = read(tmp_path, pickle.dumps({"a": first, "b": [first, first[0].copy()]}, protocol))
    for array, expected in ((got["a"], first), (got["b"][0], first), (got["b"][1], first[0])):
        assert array.dtype == np.uint8
        assert np.array_equal(array, expected)


class Attack:
    """Touches a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("where", ["alone", "in a list", "as a value", "as a key", "after the data"])
def test_nothing_runs(tmp_path: Path, protocol: int, where: str) -> None:
    marker = tmp_path / "ran"
    attack = Attack(marker)
    value: Any = {
        "alone": attack,
        "in a list": [1, [attack]],
        "as a value": {"labels": attack},
        "as a key": {attack: 1},
        "after the data": {"data": np.zeros((2, 2), np.uint8), "labels": [attack]},
    }[where]
    content = pickle.dumps(value, protocol)
    with pytest.raises(ValueError, match=REFUSED):
        read(tmp_path, content)
    assert not marker.exists()
    if where == "alone":
        pickle.loads(content)
        assert marker.exists()  # the attack works where it is not refused


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "the name os.system"),
        (b"cbuiltins\neval\nU\x011\x85R.", "the name builtins.eval"),
        (b"(ios\nsystem\n.", "opcode INST"),
        (b"(cnumpy\nndarray\nK\x01o.", "opcode OBJ"),
        (b"cnumpy\nndarray\nK\x01\x85\x81.", "opcode NEWOBJ"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"Pid\n.", "opcode PERSID"),
        (b"U\x02idQ.", "opcode BINPERSID"),
        (b"cnumpy\nndarray\n.", "a _Name .*ndarray"),
        (b"cnumpy\nload\n.", "the name numpy.load"),
        (b"\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", "the name numpy.ndarray.__init__"),
        (b"K\x01\x8c\x02os\x93.", "the name 1.os"),
        (b"cnumpy\ndtype\nU\x02O8\x85R.", "a call of"),
        (b"cnumpy\ndtype\nK\x01R.", "a call of"),
        (b"cnumpy\nndarray\nK\x05\x85R.", "a call of"),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "a call of"),
        (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x07\x85U\x01b\x87R.", "a call of"),
        (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R.", "NoneType"),
        (b"cnumpy\ndtype\n}U\x01xK\x01sb.", "a state of a _Name"),
        (b"}}U\x01xK\x01sb.", "a state of a dict"),
        (b"K\x01\x85.", "tuple"),
        (b"N.", "NoneType"),
        (b"\x88.", "bool"),
        (b"I01\n.", "bool"),
        (b"G?\xf0\x00\x00\x00\x00\x00\x00.", "opcode BINFLOAT"),
        (b"\x8f.", "opcode EMPTY_SET"),
        (b"\x96\x01\x00\x00\x00\x00\x00\x00\x00a.", "opcode BYTEARRAY8"),
        (b"K\x01K\x02.", "too many values"),
        (b"(K\x01.", ""),
        (b"K\x01K\x02a.", "items of a int"),
        (b"]K\x01K\x02s.", "keys of a list"),
        (b"}]K\x01s.", "unhashable"),
        (b"}(K\x01u.", "shorter"),
        (b"e.", ""),
        (b"a.", "without its operands"),
        (b"(a.", "without its operands"),
        (b"h\x07.", "7"),
        (b"", ""),
        (b"\x00\x01", "opcode"),
        (b"T\xff\xff\xff\x7fabc.", "expected 2147483647 bytes"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "bytes"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=f"p {REFUSED}.*{reason}"):
        read(tmp_path, content)


def test_what_follows_the_end_is_not_looked_at(tmp_path: Path) -> None:
    assert read(tmp_path, b"].cos\nsystem\n.") == []


def test_a_great_memo_index_takes_no_memory(tmp_path: Path) -> None:
    """`pickle` makes room for every smaller index."""
    assert read(tmp_path, b"K\x05r\xff\xff\xff\xff.") == 5


@pytest.mark.parametrize(
    "state",
    [
        b"(K\x01K\x05\x85%s\x89U\x04abcdtb",  # shape (5,) of 4 bytes
        b"(K\x01J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86%s\x89U\x01atb",  # shape (-1, -1) of 1 byte
        b"(K\x01K\x04\x85U\x02u1\x89U\x04abcdtb",  # no dtype
        b"(K\x01K\x04\x85%s\x89]tb",  # content that is a list, as of objects
        b"(K\x01K\x04\x85%stb",
        b"]b",
    ],
)
def test_bad_array_states(tmp_path: Path, state: bytes) -> None:
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    good = head + b"(K\x01K\x04\x85" + dtype + b"\x89U\x04abcdtb."
    assert read(tmp_path, good).tolist() == [97, 98, 99, 100]
    with pytest.raises(ValueError, match=REFUSED):
        read(tmp_path, head + state.replace(b"%s", dtype) + b".")


def test_damaged_bytes_give_a_value_error_or_other_plain_data(tmp_path: Path) -> None:
    rng = random.Random(0)
    good = pickle_batch(np.zeros((1, 3, 32, 32), np.uint8), np.array([1]))
    head = good.index(b"T" + struct.pack("<i", 3072))
    refused = 0
    for _ in range(600):
        damaged = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.choice([rng.randrange(head + 5), len(good) - 1 - rng.randrange(30)])] = rng.randrange(256)
        try:
            read(tmp_path, bytes(damaged))
        except ValueError:
            refused += 1
    assert refused > 300


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"nowhere {REFUSED}"):
        read_plain_pickle(tmp_path / "nowhere")
