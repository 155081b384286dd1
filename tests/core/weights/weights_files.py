# SPDX-License-Identifier: Apache-2.0
"""Weights files written instruction by instruction: no PyTorch is needed, and impossible files can be made too."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

import numpy as np

TYPES = {"f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage", "u2": "BFloat16Storage", "b1": "BoolStorage"}

#: functions that a pickle of a hostile file calls
FORBIDDEN = ("os.system posix.system nt.system os.popen os.execl builtins.eval builtins.exec builtins.compile "
             "builtins.__import__ builtins.getattr builtins.open __builtin__.eval __builtin__.apply subprocess.Popen "
             "subprocess.check_output pty.spawn runpy.run_path importlib.import_module shutil.rmtree pickle.loads "
             "_pickle.loads marshal.loads codecs.decode ctypes.CDLL functools.partial operator.attrgetter "
             "operator.methodcaller timeit.timeit webbrowser.open code.InteractiveInterpreter numpy.load "
             "numpy.fromfile numpy.memmap numpy.lib.npyio.load numpy.core.multiarray.fromfile "
             "numpy.testing._private.utils.runstring numpy.f2py.compile torch.load torch.hub.load torch.jit.load "
             "torch.storage._load_from_bytes torch.utils.collect_env.run torch._utils._rebuild_wrapper_subclass "
             "torch._tensor._rebuild_from_type_v2 paddle.load paddle.utils.cpp_extension.load yaml.unsafe_load "
             "safetensors.numpy.load_file beitv2_core.checkpoint.store.CheckpointStore").split()


class Code(bytes):
    """Pickle instructions, put into a stream as they are."""


def encode(value) -> bytes:
    if isinstance(value, Code):
        return bytes(value)
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return pickle.dumps(value, 2)[2:-1]
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(encode, value)) + b"t"
    assert isinstance(value, dict)
    return b"}(" + b"".join(encode(key) + encode(item) for key, item in value.items()) + b"u"


def stream(value) -> bytes:
    return b"\x80\x02" + encode(value) + b"."


def named(name: str) -> Code:
    module, _, attribute = name.rpartition(".")
    return Code(b"c" + module.encode() + b"\n" + attribute.encode() + b"\n")


def call(name: str, *arguments) -> Code:
    return Code(named(name) + encode(arguments) + b"R")


class Saved:
    """Tensors on their way into a file: `tensor` gives the instructions, `storages` the bytes."""

    def __init__(self, legacy: bool = False):
        self.storages: dict[str, np.ndarray] = {}
        self.legacy = legacy

    def tensor(self, array: np.ndarray, *, size=None, stride=None, offset=0, numel=None, kind=None) -> Code:
        key = str(len(self.storages))
        self.storages[key] = np.ascontiguousarray(array).reshape(-1)
        size = array.shape if size is None else size
        stride = tuple(s // array.itemsize for s in array.strides) if stride is None else stride
        numel = array.size if numel is None else numel
        kind = kind or TYPES[array.dtype.str[1:]]
        pid = ("storage", named(f"torch.{kind}"), key, "cpu", numel) + ((None,) if self.legacy else ())
        storage = Code(encode(pid) + b"Q")
        hooks = call("collections.OrderedDict")
        return call("torch._utils._rebuild_tensor_v2", storage, offset, tuple(size), tuple(stride), False, hooks)

    def zip(self, path, value, script=False):
        path.write_bytes(self.zip_bytes(stream(value), script))
        return path

    def zip_bytes(self, pickled: bytes, script=False) -> bytes:
        """The archive of torch.save, or of torch.jit.save, around a pickle."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/byteorder", "little")
            if script:
                archive.writestr("archive/code/__torch__/clip.py", "class CLIP: pass\n" * 9, zipfile.ZIP_DEFLATED)
                archive.writestr("archive/constants.pkl", b"\x80\x02).")
            for key, array in self.storages.items():
                archive.writestr(f"archive/data/{key}", array.tobytes())
            archive.writestr("archive/version", "3\n")
        return out.getvalue()

    def old(self, path, value):
        path.write_bytes(self.old_bytes(stream(value)))
        return path

    def old_bytes(self, pickled: bytes) -> bytes:
        """The stream of torch.save before 1.6 around a pickle."""
        out = io.BytesIO()
        for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            out.write(stream(header) if not isinstance(header, int) else pickle.dumps(header, 2))
        out.write(pickled + pickle.dumps(list(self.storages), 2))
        for array in self.storages.values():
            out.write(struct.pack("<q", array.size) + array.tobytes())
        return out.getvalue()


#: instructions of a small pickle that ask for much memory, much time or a deep stack
_TEXT = b"X" + struct.pack("<I", 2**18) + b"a" * 2**18
BOMB_BYTES = {
    "long text": b"X\xff\xff\xff\x7f",
    "long bytes": b"B\xff\xff\xff\xff",
    "long bytes 8": b"\x8e" + b"\xff" * 7 + b"\x0f",
    "long buffer": b"\x96" + b"\xff" * 7 + b"\x0f",
    "long frame": b"\x95" + b"\xff" * 7 + b"\x0f",
    "long number": b"\x8b\xff\xff\xff\x7f",
    "many sets": b"(" + b"\x8f" * 500_001 + b"t",
    "many texts": _TEXT + b"q\x000(" + (named("_codecs.encode") + b"h\x00" + encode("latin1") + b"\x86R") * 5000 + b"t",
    "many lists": b"](" + b"N" * 2**15 + b"eq\x000(" + (named("builtins.list") + b"h\x00\x85R") * 50_000 + b"t",
    "many devices": _TEXT + b"q\x000(" + (named("torch.device") + b"h\x00h\x00\x86R") * 5000 + b"t",
    "deep key": b"})" + b"\x85" * 150_000 + b"Ns",
    "wide key": b"})" + b"q\x00h\x00h\x00\x87" * 60 + b"Ns",
    "wide key of a set": b"\x8f()" + b"q\x00h\x00h\x00\x87" * 60 + b"\x90",
    "deep list": b"]" * 80_000 + b"a" * 79_999,
    "itself": b"}q\x00X\x01\x00\x00\x00ah\x00s",
    "eval of much": b")" + b"q\x00h\x00h\x00\x87" * 60 + b"q\x010" + named("builtins.eval") + b"h\x01}\x86R",
    "size of much": named("torch._utils._rebuild_tensor_v2") + b"()" + b"q\x00h\x00h\x00\x87" * 60
                    + b"K\x00h\x00h\x00\x89NtR",
}
