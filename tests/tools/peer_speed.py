#!/usr/bin/env python3
"""Time Ostro and llama.cpp in turn on GGUF files: a prompt of 512 tokens, and 64 tokens one by one.

Needs llama-cpp-python, built for this machine (CMAKE_ARGS="-DGGML_NATIVE=ON" pip install --no-binary llama-cpp-python
llama-cpp-python). Usage: peer_speed.py MODEL.gguf... [--ostro PATH] [-r 5] [-t 2] [--plain]
Prints a line a turn, then a row of a table for each file: medians of both, of the ratios within a turn, and of the
shares of the machine's limits that `ostro bench` tells. --plain keeps llama.cpp from repacking weights, which also keeps
it from instructions of the processor that a virtual machine may announce and not have.
"""
import argparse, json, os, shutil, subprocess, sys, time
from pathlib import Path
from statistics import median
import llama_cpp as L


QUIET = L.llama_log_callback(lambda level, text, data: None)


def llama(path, threads, n_prompt, n_gen, plain):
    """Tokens per second of llama.cpp: prompt, generation; after one turn to warm up."""
    mp = L.llama_model_default_params()
    if plain:
        mp.use_extra_bufts = False
    model = L.llama_model_load_from_file(str(path).encode(), mp)
    cp = L.llama_context_default_params()
    cp.n_ctx = cp.n_batch = max(n_prompt, n_gen + 1, 1024)
    cp.n_ubatch, cp.n_threads, cp.n_threads_batch = 512, threads, threads
    ctx = L.llama_init_from_model(model, cp)

    def decode(tokens):
        tokens = (L.llama_token * len(tokens))(*tokens)
        assert L.llama_decode(ctx, L.llama_batch_get_one(tokens, len(tokens))) == 0
        L.llama_synchronize(ctx)

    prompts, generated = [], []
    for _ in range(3):
        L.llama_memory_clear(L.llama_get_memory(ctx), True)
        start = time.perf_counter()
        decode([100 + i * 37 % 400 for i in range(n_prompt)])
        prompts.append(n_prompt / (time.perf_counter() - start))
        L.llama_memory_clear(L.llama_get_memory(ctx), True)
        decode([100])
        start = time.perf_counter()
        for i in range(n_gen):
            decode([100 + i])
        generated.append(n_gen / (time.perf_counter() - start))
    L.llama_free(ctx)
    L.llama_model_free(model)
    return median(prompts[1:]), median(generated[1:])


def ostro(command, path, threads, n_prompt, n_gen):
    """Tests of `ostro bench`: of the prompt, of generation."""
    args = [command, "bench", path, "-p", n_prompt, "-n", n_gen, "-r", 2, "-t", threads, "-o", "json"]
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    prompt, gen = json.loads(done.stdout)
    return prompt, gen


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("models", nargs="+", type=Path)
    a.add_argument("--ostro", default=Path(__file__).parents[2] / "target/release/ostro")
    a.add_argument("-r", type=int, default=5)
    a.add_argument("-t", type=int, default=os.cpu_count())
    a.add_argument("-p", type=int, default=512)
    a.add_argument("-n", type=int, default=64)
    a.add_argument("--plain", action="store_true")
    o = a.parse_args()
    if not shutil.which(o.ostro):
        sys.exit(f"{o.ostro}: no such program: cargo build --release, or --ostro")
    for path in o.models:
        if not path.is_file():
            sys.exit(f"{path}: no such file")
    L.llama_log_set(QUIET, None)
    L.llama_backend_init()
    rows = []
    for path in o.models:
        turns = []
        for _ in range(o.r):
            prompt, gen = ostro(o.ostro, path, o.t, o.p, o.n)
            pp, tg, (lp, lg) = prompt["avg_ts"], gen["avg_ts"], llama(path, o.t, o.p, o.n, o.plain)
            turns.append((pp, lp, pp / lp, prompt["share_int8"], tg, lg, tg / lg, gen["share_read"]))
            print(f"{path.name}: pp{o.p} {pp:.1f}, llama.cpp {lp:.1f}, ratio {pp / lp:.2f}, {prompt['share_int8']:.0%} of",
                  f"{prompt['limit_int8_gop_s']:.0f} GOP/s; tg{o.n} {tg:.1f}, llama.cpp {lg:.1f}, ratio {tg / lg:.2f},",
                  f"{gen['share_read']:.0%} of {gen['limit_read_gb_s']:.1f} GB/s", flush=True)
        rows.append((path.name, [median(column) for column in zip(*turns)]))
    print(f"\n| model | pp{o.p}, t/s | llama.cpp | ratio | of int8 peak | tg{o.n}, t/s | llama.cpp | ratio | of reading |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, (pp, lp, rp, si, tg, lg, rg, sr) in rows:
        print(f"| {name} | {pp:.0f} | {lp:.0f} | {rp:.2f} | {si:.0%} | {tg:.1f} | {lg:.1f} | {rg:.2f} | {sr:.0%} |")


if __name__ == "__main__":
    sys.exit(main())
