#!/usr/bin/env python3
"""Assembles the PTX for the chips that people have, and fails where registers spill or a name is unresolved.

    assemble.py PTXAS PTXAS_13 REPORT

PTXAS is that of nvidia-cuda-nvcc-cu12 12.0.140 (sm_75 to sm_90), PTXAS_13 that of nvidia-cuda-nvcc 13.5.37 (sm_120). REPORT is
written: registers and shared memory of each kernel on sm_86, the table kernels/cuda/RESOURCES.md.
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
CHIPS = {"75": "75", "80": "80", "86": "80", "89": "80", "90": "80", "120": "80"}


def assemble(ptxas, chip, path):
    """What ptxas says of a module: kernel, registers, spilled bytes, shared bytes."""
    run = subprocess.run([ptxas, f"-arch=sm_{chip}", "-v", path, "-o", os.devnull], capture_output=True, text=True)
    if run.returncode or re.search(r"unresolved|undefined", run.stderr, re.I):
        raise SystemExit(f"{path} for sm_{chip}: {run.stderr}")
    found = []
    for name, body in re.findall(r"Compiling entry function '(\w+)'.*?\n(.*?)(?=ptxas info\s+: Compiling|$)", run.stderr, re.S):
        stack, stores, loads = map(int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", body).groups())
        registers = int(re.search(r"Used (\d+) registers", body)[1])
        shared = re.search(r"(\d+) bytes smem", body)
        found.append((name, registers, stores + loads, int(shared[1]) if shared else 0))
    return found


def main():
    ptxas, ptxas_13, report = sys.argv[1:4]
    jobs = []
    for chip, arch in CHIPS.items():
        for path in sorted((HERE / "ptx" / f"compute_{arch}").glob("*.ptx")):
            if ".extern .func" in path.read_text():
                raise SystemExit(f"{path}: a function is declared and nowhere defined")
            jobs.append((chip, path))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda job: assemble(ptxas_13 if job[0] == "120" else ptxas, job[0], job[1]), jobs))
    spills = [f"{p.stem} {k[0]} on sm_{c}: {k[2]} bytes" for (c, p), kernels in zip(jobs, results) for k in kernels if k[2]]
    if spills:
        raise SystemExit("registers spill:\n" + "\n".join(spills))
    lines = ["Registers and bytes of shared memory of each kernel on sm_86, by ptxas 12.0. No kernel spills on any chip of", "`assemble.py`, which writes this table.", "", "| module | kernel | registers | shared |", "|---|---|---|---|"]
    for (chip, path), kernels in zip(jobs, results):
        if chip == "86":
            lines += [f"| {path.stem} | {name} | {registers} | {shared} |" for name, registers, _, shared in sorted(kernels)]
    pathlib.Path(report).write_text("\n".join(lines) + "\n")
    print(f"{len(jobs)} modules assembled for sm_{', sm_'.join(CHIPS)}: nothing spills")


if __name__ == "__main__":
    main()
