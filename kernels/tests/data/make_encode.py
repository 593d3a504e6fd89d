"""Makes encode.json: digests of the bytes that ggml_quantize_chunk makes of floats that tests/encode.rs makes too.

    make_encode.py LIBGGML_BASE_SO > encode.json

Needs numpy. The floats, the importance and the digest are said in tests/encode.rs; they must be changed in both places.
"""

import ctypes
import json
import sys

import numpy as np

ROWS, COLS = 37, 768
TYPES = (
    "F32=0 F16=1 Q4_0=2 Q4_1=3 Q5_0=6 Q5_1=7 Q8_0=8 Q2_K=10 Q3_K=11 Q4_K=12 Q5_K=13 Q6_K=14 IQ4_NL=20 IQ4_XS=23 BF16=30 "
    "MXFP4=39"
).split()

lib = ctypes.CDLL(sys.argv[1])
lib.ggml_quantize_chunk.restype = lib.ggml_row_size.restype = ctypes.c_size_t
lib.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + 3 * [ctypes.c_int64] + [ctypes.c_void_p]


def mix(x):
    """The finalizer of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def floats():
    i = np.arange(ROWS * COLS, dtype=np.uint64)
    random, group = mix(i + np.uint64(1)), mix(i // np.uint64(16) + np.uint64(1 << 40))
    x = ((random >> np.uint64(40)).astype("<f4") - np.float32(1 << 23)) / np.float32(1 << 27)
    x *= np.where(random % np.uint64(97) == 0, 16, 1).astype("<f4")
    x /= (np.uint64(1) << (group % np.uint64(12))).astype("<f4")
    x = x.astype("<f4")
    odd = i // np.uint64(COLS) % np.uint64(2) == 1
    x.view("<u4")[odd] &= np.uint32(0xFFFF0000)
    return x


def importance():
    random = mix(np.arange(COLS, dtype=np.uint64) + np.uint64(1 << 41))
    w = (random >> np.uint64(40)).astype("<f4") / np.float32(1 << 24)
    w = (w * w).astype("<f4")
    w[random % np.uint64(50) == 0] = 0
    return w


def digest(data):
    return int(mix((np.arange(data.size, dtype=np.uint64) << np.uint64(32)) + data).sum(dtype=np.uint64))


x, w = floats(), importance()
entries = []
for entry in TYPES:
    name, ggml_id = entry.split("=")
    row = lib.ggml_row_size(int(ggml_id), COLS)
    found = {"type": name}
    for kind, weights in (("plain", None), ("importance", w.ctypes.data)):
        out = np.zeros(ROWS * row, np.uint8)
        assert lib.ggml_quantize_chunk(int(ggml_id), x.ctypes.data, out.ctypes.data, 0, ROWS, COLS, weights) == out.size
        found[kind] = f"{digest(out):016x}"
    entries.append(found)
print("[\n" + ",\n".join(json.dumps(e) for e in entries) + "\n]")
