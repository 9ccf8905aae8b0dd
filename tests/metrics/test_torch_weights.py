"""State dictionaries, written here as PyTorch's legacy format describes them, and hostile ones."""

import collections
import io
import os
import pickle
import struct
import sys
import types

import numpy as np
import pytest

from kgen.metrics.torch_weights import read_state_dict

MAGIC = 0x1950A86A20F9469CFC6C


class Storage:
    """Stands in a pickle for a storage of float32."""

    def __init__(self, key, values):
        self.key, self.values = key, values


class Tensor:
    """Pickles as a call of `torch._utils._rebuild_tensor_v2`."""

    def __init__(self, storage, offset, size, stride):
        self.arguments = (storage, offset, size, stride, False, collections.OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


@pytest.fixture(autouse=True)
def fake_torch(monkeypatch):
    """Modules with the names that a state dictionary refers to, so that it can be written."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2():
        raise AssertionError("reading must not call into torch")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def write(path, state, storages=(), magic=MAGIC):
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                kind = sys.modules["torch"].FloatStorage
                return ("storage", kind, obj.key, "cpu", len(obj.values), None)
            return None

    file = io.BytesIO()
    for item in (magic, 1001, {"little_endian": True}, state, [s.key for s in storages]):
        Pickler(file, protocol=2).dump(item)
    for storage in storages:
        file.write(struct.pack("<q", len(storage.values)))
        file.write(np.asarray(storage.values, "<f4").tobytes())
    path.write_bytes(file.getvalue())
    return path


def test_tensors_are_read_with_their_offsets_and_strides(tmp_path):
    first, second = Storage("11", range(10)), Storage("22", [0.5, -0.25])
    state = collections.OrderedDict(
        whole=Tensor(first, 0, (2, 5), (5, 1)),
        transposed=Tensor(first, 4, (3, 2), (1, 3)),
        scalar=Tensor(second, 1, (), ()),
    )
    arrays = read_state_dict(write(tmp_path / "a.pth", state, [first, second]))
    assert arrays["whole"].tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert arrays["transposed"].tolist() == [[4, 7], [5, 8], [6, 9]]
    assert arrays["scalar"] == -0.25
    assert arrays["whole"].dtype == np.float32


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "function", [os.system, eval, getattr, bytearray], ids=lambda f: f.__name__
)
def test_nothing_but_tensors_is_unpickled(tmp_path, function):
    path = write(tmp_path / "a.pth", {"weight": Call(function, "print('called')")})
    with pytest.raises(ValueError, match=r"a\.pth is damaged.*tensors and OrderedDict only"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (11,), (1,)), (8, (3,), (1,)), (0, (2,), (-1,)), (0, (10**6, 10**6), (0, 0))],
)
def test_a_tensor_stays_within_its_storage(tmp_path, offset, size, stride):
    storage = Storage("1", range(10))
    state = {"weight": Tensor(storage, offset, size, stride)}
    with pytest.raises(ValueError):
        read_state_dict(write(tmp_path / "a.pth", state, [storage]))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="state dictionary"):
        read_state_dict(write(tmp_path / "a.pth", {}, magic=7))
    (tmp_path / "b.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="a zip"):
        read_state_dict(tmp_path / "b.pth")


def test_what_takes_memory_by_a_number_alone_is_refused(tmp_path):
    storage = Storage("1", range(10))
    data = write(tmp_path / "a.pth", {"w": Tensor(storage, 0, (10,), (1,))}, [storage]).read_bytes()
    place = len(data) - 48
    (tmp_path / "long.pth").write_bytes(data[:place] + struct.pack("<q", 2**40) + data[place + 8 :])
    with pytest.raises(ValueError, match="larger than the file"):
        read_state_dict(tmp_path / "long.pth")
    # Four bytes that would have the reader make room for 4 billion objects.
    (tmp_path / "memo.pth").write_bytes(b"\x80\x02K\x07r\xff\xff\xff\xff.")
    with pytest.raises(ValueError, match="consecutive memo indices"):
        read_state_dict(tmp_path / "memo.pth")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    storage = Storage("1", [1.0, float("nan")])
    path = write(tmp_path / "a.pth", {"w": Tensor(storage, 0, (2,), (1,))}, [storage])
    with pytest.raises(ValueError, match="w must be finite"):
        read_state_dict(path)
