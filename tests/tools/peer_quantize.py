#!/usr/bin/env python3
"""Time `ostro quantize` and llama-quantize in turn on the same weights, and compare the bytes of their files.

Ostro reads the Hugging Face folder; llama.cpp reads the BF16 file that Ostro makes of it first (and which its converter
would make). Needs llama-cpp-python, built for this machine. Usage: peer_quantize.py FOLDER [--types Q4_K_M,Q8_0] [-t 2]
[-r 3] [--ostro PATH] [--work FOLDER]. Prints a line a turn, then for each type the medians, their ratio, and the rate at
which the disk takes the same bytes (a plain copy of the file, with fsync).
"""
import argparse, ctypes, filecmp, os, subprocess, sys, tempfile, time
from pathlib import Path
from statistics import median
import llama_cpp as L

FTYPES = {"Q4_K_M": 15, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q4_K_S": 14, "Q4_0": 2, "Q3_K_M": 12, "Q2_K": 10, "IQ4_XS": 30}
QUIET = L.llama_log_callback(lambda level, text, data: None)


def ostro(command, source, out, of, threads):
    start = time.perf_counter()
    done = subprocess.run([command, "quantize", source, out, of, "-t", str(threads)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return time.perf_counter() - start


def llama(source, out, of, threads):
    params = L.llama_model_quantize_default_params()
    params.ftype, params.nthread = FTYPES[of], threads
    start = time.perf_counter()
    if L.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) != 0:
        sys.exit(f"llama.cpp cannot quantize {source} to {of}")
    with open(out, "rb+") as file:
        os.fsync(file.fileno())  # as ostro does
    return time.perf_counter() - start


def disk(path):
    """Seconds that the disk takes for the bytes of a file."""
    data, copy = path.read_bytes(), path.with_suffix(".copy")
    start = time.perf_counter()
    with open(copy, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    seconds = time.perf_counter() - start
    copy.unlink()
    return seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--types", default="Q4_K_M,Q8_0")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("--ostro", default=Path(__file__).parents[2] / "target/release/ostro")
    parser.add_argument("--work", type=Path)
    args = parser.parse_args()
    L.llama_log_set(QUIET, None)
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        work = Path(work)
        bf16 = work / "bf16.gguf"
        ostro(args.ostro, args.folder, bf16, "BF16", args.threads)
        size = bf16.stat().st_size
        for of in args.types.split(","):
            ours, theirs, plain = [], [], []
            a, b = work / "ours.gguf", work / "theirs.gguf"
            for i in range(args.rounds):
                ours.append(ostro(args.ostro, args.folder, a, of, args.threads))
                theirs.append(llama(bf16, b, of, args.threads))
                plain.append(disk(a))
                print(f"{of} turn {i + 1}: ostro {ours[-1]:.1f} s, llama.cpp {theirs[-1]:.1f} s, disk alone {plain[-1]:.1f} s")
            if not filecmp.cmp(a, b, shallow=False):
                sys.exit(f"{of}: the files differ")
            o, t, d = median(ours), median(theirs), median(plain)
            print(f"| {of} | {size / o / 1e6:.0f} MB/s | {size / t / 1e6:.0f} MB/s | {median(y / x for x, y in zip(ours, theirs)):.1f} times"
                  f" | {100 * d / o:.0f} % of the disk's rate | same bytes |")


main()
