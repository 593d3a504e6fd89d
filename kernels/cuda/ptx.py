#!/usr/bin/env python3
"""Compiles the CUDA sources to PTX with NVRTC 12.0, whose PTX every driver from 525 on takes.

    ptx.py NVRTC INCLUDE OUT

NVRTC is libnvrtc.so.12 of nvidia-cuda-nvrtc-cu12 12.0.140, INCLUDE the include directory of nvidia-cuda-runtime-cu12
12.0.146, OUT where the files go: the directory `ptx` here, or another one to compare with it. One module for what knows no
format, and one a format, for compute_75 (dp4a) and for compute_80 (tensor cores). The same sources give the same bytes.
"""

import ctypes
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
ARCHITECTURES = ["75", "80"]
BLOCKS = """Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL MXFP4 NVFP4 Q1_0 Q2_0 TQ1_0 TQ2_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS
    IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ1_S IQ1_M""".split()
PLAIN = ["F32", "F16", "BF16"]


def modules():
    """Name, source and definition of each module."""
    yield "layer", "layer.cu", None
    for name in BLOCKS:
        yield name.lower(), "format.cu", f"-DBLOCKS={name}"
    for name in PLAIN:
        yield name.lower(), "format.cu", f"-DPLAIN={name}"


def compile_ptx(nvrtc, include, source, options):
    """The PTX of a source file, of this folder unless its path is whole; raises with the compiler's log."""
    program = ctypes.c_void_p()
    text = (HERE / source).read_bytes()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, pathlib.Path(source).name.encode(), 0, None, None):
        raise SystemExit(f"{source}: NVRTC did not take it")
    options = [f"-I{include}", f"-I{HERE}", "-std=c++17", *options]
    array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), array)
    if failed:
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise SystemExit(f"{source} {options[3:]}: {log.value.decode()}")
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, ptx)
    return ptx.value


def main():
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    nvrtc, include, out = ctypes.CDLL(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    for arch in ARCHITECTURES:
        folder = out / f"compute_{arch}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, source, define in modules():
            options = [f"--gpu-architecture=compute_{arch}"] + ([define] if define else [])
            (folder / f"{name}.ptx").write_bytes(compile_ptx(nvrtc, include, source, options))


if __name__ == "__main__":
    main()
