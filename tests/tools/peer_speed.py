#!/usr/bin/env python3
"""Time Ostro and llama.cpp in turn on one GGUF file: a prompt of about 512 tokens, and 64 tokens one by one.

Needs llama-cpp-python, built for this machine. Usage: peer_speed.py MODEL.gguf [--ostro PATH] [-r 5] [-t 2] [--plain]
Prints a line a turn and the medians of the ratios. --plain keeps llama.cpp from repacking weights, which also keeps it
from instructions of the processor that a virtual machine may announce and not have.
"""
import argparse, os, re, statistics, subprocess, sys, tempfile, time
import llama_cpp as L


def llama(path, threads, n_prompt, n, plain):
    """Tokens per second of llama.cpp: prompt, generation; after one turn to warm up."""
    mp = L.llama_model_default_params()
    if plain:
        mp.use_extra_bufts = False
    model = L.llama_model_load_from_file(path.encode(), mp)
    cp = L.llama_context_default_params()
    cp.n_ctx, cp.n_batch, cp.n_ubatch, cp.n_threads, cp.n_threads_batch = 1024, 1024, 512, threads, threads
    ctx = L.llama_init_from_model(model, cp)

    def decode(tokens):
        tokens = (L.llama_token * len(tokens))(*tokens)
        assert L.llama_decode(ctx, L.llama_batch_get_one(tokens, len(tokens))) == 0
        L.llama_synchronize(ctx)

    for _ in range(2):
        L.llama_memory_clear(L.llama_get_memory(ctx), True)
        start = time.perf_counter()
        decode([100 + i % 400 for i in range(n_prompt)])
        prompt = n_prompt / (time.perf_counter() - start)
        L.llama_memory_clear(L.llama_get_memory(ctx), True)
        decode([100])
        start = time.perf_counter()
        for i in range(n):
            decode([100 + i])
        generated = n / (time.perf_counter() - start)
    L.llama_free(ctx)
    L.llama_model_free(model)
    return prompt, generated


def ostro(command, path, threads, text, n):
    """The same of Ostro, from its statistics lines, and the tokens of the prompt."""
    def stats(*args):
        args = [command, "run", path, "--raw", "--no-display-prompt", "--temp", "0", "--stats", "-t", str(threads), *args]
        return subprocess.run(args, capture_output=True, text=True, check=True).stderr
    tokens, prompt = re.search(r"prompt (\d+) tokens, ([\d.]+) tokens/s", stats("-f", text, "-n", "1")).groups()
    generated = re.search(r"generated \d+ tokens, ([\d.]+) tokens/s", stats("-p", "A", "-n", str(n + 1), "--ignore-eos"))
    return int(tokens), float(prompt), float(generated.group(1))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("model")
    a.add_argument("--ostro", default="target/release/ostro")
    a.add_argument("-r", type=int, default=5)
    a.add_argument("-t", type=int, default=os.cpu_count())
    a.add_argument("-n", type=int, default=64)
    a.add_argument("--plain", action="store_true")
    o = a.parse_args()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    L.llama_backend_init()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
        text.write("the " * 511)
        text.flush()
        ratios = []
        for turn in range(o.r):
            tokens, pp, tg = ostro(o.ostro, o.model, o.t, text.name, o.n)
            lp, lg = llama(o.model, o.t, tokens, o.n, o.plain)
            ratios.append((pp / lp, tg / lg))
            print(f"pp{tokens}: ostro {pp:.0f}, llama.cpp {lp:.0f} t/s, ratio {pp / lp:.2f};",
                  f"tg{o.n}: ostro {tg:.1f}, llama.cpp {lg:.1f} t/s, ratio {tg / lg:.2f}", flush=True)
    print(f"median ratios: prompt {statistics.median(r[0] for r in ratios):.2f}, generation {statistics.median(r[1] for r in ratios):.2f}")


main()
