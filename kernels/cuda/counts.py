#!/usr/bin/env python3
"""Counts what the mat-vec kernels read, on the emulated driver: pieces of 32 bytes per byte of weights, and bank conflicts.

    counts.py MATVEC DRIVER

MATVEC is the example `matvec` of ostro-kernels, built with the feature cuda, DRIVER the folder of the emulated libcuda.so.1.
Prints a table for kernels/README.md; fails where more than 1.15 of the weights' bytes are read.
"""

import json
import os
import subprocess
import sys
import tempfile

ROWS, K = 768, 6144
TYPES = """F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL MXFP4 NVFP4 Q1_0 Q2_0 TQ1_0 TQ2_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS
    IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ1_S IQ1_M""".split()
# What an RTX 4090 reads.
BANDWIDTH = 1008e9


def main():
    matvec, driver = sys.argv[1:3]
    worst = 0
    print("| type | bits a weight | bytes read / weights' bytes | bank conflicts a request | bound, 4090 [G weights/s] |")
    print("|---|---|---|---|---|")
    for name in TYPES:
        with tempfile.TemporaryDirectory() as folder:
            stats = os.path.join(folder, "stats.json")
            env = dict(os.environ, LD_LIBRARY_PATH=driver, OSTRO_EMULATOR_STATS=stats)
            run = subprocess.run([matvec, name, str(ROWS), str(K)], env=env, capture_output=True, text=True, check=True)
            weights = int(run.stdout)
            with open(stats) as file:
                counts = json.load(file)["kernels"]["matvec_1"]
        ratio = counts["sectors"] * 32 / weights
        conflicts = counts["conflicts"] / max(counts["shared"], 1)
        bound = BANDWIDTH / (weights / (ROWS * K) * ratio) / 1e9
        print(f"| {name} | {8 * weights / (ROWS * K):.2f} | {ratio:.3f} | {conflicts:.2f} | {bound:,.0f} |")
        worst = max(worst, ratio)
    if worst > 1.15:
        raise SystemExit(f"{worst:.3f} times the weights' bytes are read, at most 1.15")


if __name__ == "__main__":
    main()
