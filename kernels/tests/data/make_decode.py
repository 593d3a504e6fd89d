"""Makes decode.json: what ggml's to_float gives for a block or two of each type, and a digest over many random blocks.

    make_decode.py LIBGGML_BASE_SO REFERENCE_QUANTS_DIR > decode.json

Needs numpy. Types that ggml cannot decode (Q8_1 and the integers) are computed here from their definition.
tests/decode.rs says what the digest is; it must be changed in both places.
"""

import ctypes
import json
import os
import sys

import numpy as np

RANDOM_BYTES = 300_000
NAMES = (
    "F32 F16 Q4_0 Q4_1 - - Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S "
    "IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 - - - TQ1_0 TQ2_0 - - - MXFP4 NVFP4 Q1_0 Q2_0"
).split()
PLAIN = {"F32": "<f4", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "F64": "<f8"}


class Traits(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("elems", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("bytes", ctypes.c_size_t),
        ("quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    ]


lib = ctypes.CDLL(sys.argv[1])
lib.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
quants = sys.argv[2]


def decode(ggml_id, name, data):
    """data: uint8, whole blocks -> float32"""
    if name in PLAIN:
        with np.errstate(over="ignore", invalid="ignore"):
            return data.view(PLAIN[name]).astype("<f4")
    traits = lib.ggml_get_type_traits(ggml_id).contents
    if name == "Q8_1":
        blocks = data.reshape(-1, 36)
        d = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype("<f4")
        with np.errstate(invalid="ignore"):
            return (d * blocks[:, 4:].view("i1").astype("<f4")).ravel()
    # Q8_K has a decoder, but not in the table.
    at = traits.to_float or ctypes.cast(lib.dequantize_row_q8_K, ctypes.c_void_p).value
    out = np.empty(data.size // traits.bytes * traits.elems, "<f4")
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(at)
    data = np.ascontiguousarray(data)
    call(data.ctypes.data, out.ctypes.data, out.size)
    return out


def mix(x):
    """The finalizer of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def random_bytes(ggml_id, n):
    count = np.arange(1, n // 8 + 2, dtype=np.uint64)
    return mix(np.uint64(ggml_id) + count * np.uint64(0x9E3779B97F4A7C15)).astype("<u8").view(np.uint8)[:n]


def digest(floats):
    bits = floats.view("<u4").copy()
    bits[np.isnan(floats)] = 0x7FC00000
    return int(mix((np.arange(bits.size, dtype=np.uint64) << np.uint64(32)) + bits).sum(dtype=np.uint64))


def reference(ggml_id, name, n_bytes, n_elems):
    """The start of row 1 (gaussian with outliers), bytes and floats."""
    stem = os.path.join(quants, name.lower())
    for kind in ("plain", "imatrix"):
        if os.path.exists(f"{stem}.{kind}.bin"):
            data = np.fromfile(f"{stem}.{kind}.bin", np.uint8).reshape(16, -1)
            floats = np.fromfile(f"{stem}.{kind}.deq.f32", "<f4").reshape(16, -1)
            assert (decode(ggml_id, name, data.ravel()).view("<u4") == floats.ravel().view("<u4")).all(), name
            return data[1, :n_bytes], floats[1, :n_elems]
    if name in ("Q8_1", "Q8_K"):
        data = np.fromfile(os.path.join(quants, f"act_{name.lower()}.bin"), np.uint8).reshape(17, -1)[1, :n_bytes]
    elif name in ("F16", "BF16"):
        data = np.fromfile(os.path.join(quants, f"input.{name.lower()}"), np.uint8).reshape(16, -1)[1, :n_bytes]
    else:
        data = random_bytes(ggml_id + 100, n_bytes)
    return data, decode(ggml_id, name, data)


entries = []
for ggml_id, name in enumerate(NAMES):
    if name == "-":
        continue
    traits = lib.ggml_get_type_traits(ggml_id).contents
    blocks = max(256 // traits.elems, 1) if traits.elems > 1 else 8
    data, floats = reference(ggml_id, name, blocks * traits.bytes, blocks * traits.elems)
    random_blocks = RANDOM_BYTES // traits.bytes
    random = decode(ggml_id, name, random_bytes(ggml_id, random_blocks * traits.bytes))
    entries.append(
        {
            "type": name,
            "bytes": data.tobytes().hex(),
            "floats": floats.astype("<f4").tobytes().hex(),
            "random_blocks": random_blocks,
            "random_digest": f"{digest(random):016x}",
        }
    )
print("[\n" + ",\n".join(json.dumps(e) for e in entries) + "\n]")
