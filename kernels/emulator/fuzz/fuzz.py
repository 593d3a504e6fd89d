#!/usr/bin/env python3
"""Random kernels, compiled by g++ for this processor and by NVRTC for the emulated card: both must give the same bits.

    fuzz.py NVRTC INCLUDE RUNNER FIRST LAST

NVRTC is libnvrtc.so.12, INCLUDE the headers of its runtime (see kernels/cuda/ptx.py), RUNNER the example `differential` of
this package, FIRST and LAST the seeds. A kernel is a dozen and a half statements of whole and floating numbers, branches and loops
that mean the same to both compilers: nothing undefined, nothing contracted.
"""

import pathlib
import random
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "cuda"))
import ptx  # noqa: E402

WHOLE = ["int", "unsigned", "long long", "unsigned long long", "short", "unsigned short", "signed char", "unsigned char"]
SHIFT = {"short": 15, "unsigned short": 15, "signed char": 7, "unsigned char": 7}
THREADS = 128
KERNELS_A_FILE = 20


def unsigned_of(kind):
    """The type in which a kind is computed, so that nothing overflows."""
    return "unsigned long long" if "long" in kind else "unsigned"


class Kernel:
    """One random kernel."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.variables = [("a", "int"), ("b", "unsigned"), ("c", "float"), ("e", "long long")]
        self.lines = []
        self.names = 0
        self.statements(18, 2)

    def literal(self, kind):
        r = self.random
        if kind == "float":
            if r.random() < 0.9:
                return f"{r.uniform(-8, 8):.5f}f"
            return r.choice(["0.0f", "1.0f", "-1.0f", "1e-20f", "1e20f"])
        value = r.choice([0, 1, 2, 3, 7, 31, 255, -1, -7, 127, -128, 65535, r.randrange(-(2**31), 2**31)])
        if "long" in kind and r.random() < 0.3:
            value = r.randrange(-(2**62), 2**62)
        return f"(({kind}){value}{'LL' if abs(value) >= 2**31 else ''})"

    def operand(self, kind):
        r = self.random
        same = [name for name, of in self.variables if of == kind]
        if same and r.random() < 0.75:
            return r.choice(same)
        others = [name for name, of in self.variables if of != "float"] if kind != "float" else []
        if others and r.random() < 0.5:
            return f"(({kind}){r.choice(others)})"
        return self.literal(kind)

    def expression(self, kind, depth=0):
        if depth > 2:
            return self.operand(kind)
        return self.floating(depth) if kind == "float" else self.whole(kind, depth)

    def floating(self, depth):
        arg = lambda: self.expression("float", depth + 1)  # noqa: E731
        choice = self.random.choice(["ADD", "ADD", "ADD", "MUL", "MUL", "SUB", "FMA", "fminf", "fmaxf", "fabsf", "from", "DIV"])
        if choice == "FMA":
            return f"FMA({arg()},{arg()},{arg()})"
        if choice == "fabsf":
            return f"fabsf({arg()})"
        if choice == "from":
            kind = self.random.choice(["int", "unsigned", "long long", "short", "unsigned char"])
            return f"(float)({self.expression(kind, depth + 1)})"
        return f"{choice}({arg()},{arg()})"

    def whole(self, kind, depth):
        wide = unsigned_of(kind)
        bits = 63 if "long" in kind else 31
        own = lambda: f"({kind})({self.expression(kind, depth + 1)})"  # noqa: E731
        arg = lambda: f"({wide})({self.expression(kind, depth + 1)})"  # noqa: E731
        forms = [
            lambda: f"{arg()}+{arg()}",
            lambda: f"{arg()}+{arg()}",
            lambda: f"{arg()}-{arg()}",
            lambda: f"{arg()}*{arg()}",
            lambda: f"{arg()}*{arg()}",
            lambda: f"{arg()}&{arg()}",
            lambda: f"{arg()}|{arg()}",
            lambda: f"{arg()}^{arg()}",
            lambda: f"{arg()}<<({arg()}&{bits})",
            lambda: f"{own()}>>({arg()}&{SHIFT.get(kind, bits)})",
            lambda: f"{arg()}/({arg()}|1)",
            lambda: f"{arg()}%({arg()}|1)",
            lambda: f"{own()}<{own()}?{own()}:{own()}",
            lambda: f"~{arg()}",
            lambda: f"POPC((unsigned long long){arg()})",
            lambda: f"F2I({self.expression('float', depth + 1)})",
            lambda: f"MULHI((unsigned)({self.expression('unsigned', depth + 1)}),(unsigned)({self.expression('unsigned', depth + 1)}))",
            lambda: f"({self.expression(self.random.choice(WHOLE), depth + 1)})",
        ]
        return f"(({kind})({self.random.choice(forms)()}))"

    def name(self, letter):
        self.names += 1
        return f"{letter}{self.names}"

    def statements(self, count, indent):
        r, pad = self.random, " " * indent
        for _ in range(count):
            choice = r.random()
            if choice < 0.62:
                kind = r.choice(WHOLE + ["float", "float", "int", "unsigned"])
                value, name = self.expression(kind), self.name("v")
                self.lines.append(f"{pad}{kind} {name} = {value};")
                self.variables.append((name, kind))
                continue
            target, kind = r.choice(self.variables[4:] or self.variables)
            outside = len(self.variables)
            if choice < 0.8:
                self.lines.append(f"{pad}if (({self.expression('int')}) & 1) {{")
                if indent < 8:
                    self.statements(r.randrange(1, 3), indent + 2)
            else:
                i = self.name("i")
                self.lines.append(f"{pad}for (int {i} = 0; {i} < (int)(((unsigned)({self.expression('int')})) % 5u); ++{i}) {{")
                self.variables.append((f"(int){i}", "int"))
            self.lines.append(f"{pad}  {target} = {self.expression(kind)};")
            del self.variables[outside:]
            self.lines.append(f"{pad}}}")

    def source(self, name):
        """The kernel as C: what all its variables are in the end, as one number a thread."""
        parts = [
            f"  h = h * 1099511628211ULL ^ {f'FB({v})' if kind == 'float' else f'(unsigned long long)(long long)({v})'};"
            for v, kind in self.variables
        ]
        body = "\n".join(self.lines + ["  unsigned long long h = 14695981039346656037ULL;"] + parts)
        start = "  int tid = TID, a = A[tid]; unsigned b = (unsigned)A[tid + 1] * 2654435761u; float c = F[tid]; long long e = (long long)a * b;"
        return f"FN({name}) {{\n{start}\n{body}\n  O[tid] = h;\n}}\n"


HEAD = r"""
#ifdef __CUDACC_RTC__
#define FN(k) extern "C" __global__ void k(const int* A, const float* F, unsigned long long* O)
#define ADD(x, y) __fadd_rn(x, y)
#define SUB(x, y) __fsub_rn(x, y)
#define MUL(x, y) __fmul_rn(x, y)
#define DIV(x, y) __fdiv_rn(x, y)
#define FMA(x, y, z) __fmaf_rn(x, y, z)
#define POPC(x) __popcll(x)
#define F2I(x) __float2int_rz(x)
#define MULHI(x, y) __umulhi(x, y)
#define TID (int)(blockIdx.x * blockDim.x + threadIdx.x)
static __device__ __forceinline__ unsigned long long FB(float f) { return f != f ? 0x7fc00000u : (unsigned)__float_as_int(f); }
#else
#include <cmath>
#include <cstdio>
#include <cstring>
static float ADD(float x, float y) { volatile float r = x + y; return r; }
static float SUB(float x, float y) { volatile float r = x - y; return r; }
static float MUL(float x, float y) { volatile float r = x * y; return r; }
static float DIV(float x, float y) { volatile float r = x / y; return r; }
static float FMA(float x, float y, float z) { return fmaf(x, y, z); }
static int POPC(unsigned long long x) { return __builtin_popcountll(x); }
static int F2I(float x) {
    if (x != x) return 0;
    if (x >= 2147483648.0f) return 2147483647;
    return x <= -2147483648.0f ? -2147483647 - 1 : (int)x;
}
// Of zeros PTX takes the one with the sign as the smaller; C leaves it open.
static float fmn(float a, float b) { return a == b ? (std::signbit(a) ? a : b) : fminf(a, b); }
static float fmx(float a, float b) { return a == b ? (std::signbit(a) ? b : a) : fmaxf(a, b); }
#define fminf fmn
#define fmaxf fmx
static unsigned MULHI(unsigned x, unsigned y) { return (unsigned)(((unsigned long long)x * y) >> 32); }
static unsigned long long FB(float f) { unsigned u; memcpy(&u, &f, 4); return f != f ? 0x7fc00000u : u; }
#define FN(k) static void k(const int* A, const float* F, unsigned long long* O, int TID)
#endif
"""

# The numbers that the runner makes too.
MAIN = """
#ifndef __CUDACC_RTC__
int main() {
    static int A[129]; static float F[128]; unsigned s = 12345;
    for (int i = 0; i < 129; i++) { s = s * 1664525u + 1013904223u; A[i] = (int)s >> (i % 24); }
    for (int i = 0; i < 128; i++) { s = s * 1664525u + 1013904223u; F[i] = (float)((int)s) / (float)(1u << (i % 31)); }
    unsigned long long O[128];
CALLS
}
#endif
"""


def check(nvrtc, include, runner, seeds, folder):
    """The seeds whose kernels differ."""
    kernels = "".join(Kernel(seed).source(f"k{seed}") for seed in seeds)
    calls = "\n".join(
        f'    for (int i = 0; i < 128; i++) k{seed}(A, F, O, i);\n    printf("k{seed}"); for (int i = 0; i < 128; i++) printf(" %016llx", O[i]); printf("\\n");'
        for seed in seeds
    )
    source, program = folder / "k.cu", folder / "k"
    source.write_text(HEAD + kernels + MAIN.replace("CALLS", calls))
    subprocess.run(["g++", "-x", "c++", "-w", "-O1", "-ffp-contract=off", "-fwrapv", source, "-o", program], check=True)
    wanted = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    (folder / "k.ptx").write_bytes(ptx.compile_ptx(nvrtc, include, source, ["--gpu-architecture=compute_75"]))
    got = subprocess.run([runner, folder / "k.ptx"], capture_output=True, text=True)
    if got.returncode:
        raise SystemExit(f"seeds {seeds[0]} to {seeds[-1]}: {got.stderr}")
    results = dict(line.split(" ", 1) for line in got.stdout.splitlines())
    return [name for name, values in (line.split(" ", 1) for line in wanted.splitlines()) if results.get(name) != values]


def main():
    import ctypes

    library, include, runner, first, last = sys.argv[1:6]
    seeds = list(range(int(first), int(last) + 1))
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(0, len(seeds), KERNELS_A_FILE):
            wrong += check(ctypes.CDLL(library), include, runner, seeds[i : i + KERNELS_A_FILE], pathlib.Path(folder))
    if wrong:
        raise SystemExit(f"the emulated card and g++ differ: {', '.join(wrong)}")
    print(f"{len(seeds)} random kernels give the same bits on the emulated card and by g++")


if __name__ == "__main__":
    main()
