#!/usr/bin/env python3
"""Perplexity of one text by Ostro and by llama.cpp, in the same chunks, and the ratio of the two.

Needs llama-cpp-python, or the program llama-perplexity: --llama-perplexity PATH.
Usage: peer_perplexity.py TEXT MODEL.gguf... [--ostro PATH] [-c 512] [-t 2] [--chunks N]
With --golden OUT.json nothing is compared: llama.cpp's figures in three settings of its attention are written, its
defaults first, by NAME of NAME=MODEL.gguf. They differ from each other because it rounds activations to 8 bits, and any
other rounding before that moves the logits; tests/data/perplexity.json was made so.
"""
import argparse, json, os, re, subprocess, sys
from pathlib import Path

ESTIMATE = re.compile(r"Final estimate: PPL = ([0-9.]+)")
F32, F16 = 0, 1
# Flash attention (-1 is the default, automatic), type of the cache; the first are the defaults.
SETTINGS = [(-1, F16), (0, F16), (0, F32)]
QUIET = None


def program(path, model, o, flash, kv):
    """The figure of llama-perplexity."""
    args = [path, "-m", model, "-f", o.text, "-c", o.c, "-t", o.t, "--chunks", o.chunks]
    args += ["-fa", "auto" if flash < 0 else "off"] + ([] if kv == F16 else ["-ctk", "f32", "-ctv", "f32"])
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    found = ESTIMATE.search(done.stdout + done.stderr)
    return float(found[1]) if found else sys.exit(done.stderr)


def library(model, o, flash, kv):
    """The same by llama.cpp as a library: the text is cut and scored as llama-perplexity does."""
    global QUIET
    import numpy as np
    import llama_cpp as L

    if QUIET is None:
        QUIET = L.llama_log_callback(lambda level, text, data: None)
        L.llama_log_set(QUIET, None)
        L.llama_backend_init()
    data = o.text.read_bytes().removesuffix(b"\n")
    loaded = L.llama_model_load_from_file(str(model).encode(), L.llama_model_default_params())
    vocab = L.llama_model_get_vocab(loaded)
    ids = (L.llama_token * (len(data) + 2))()
    n = L.llama_tokenize(vocab, data, len(data), ids, len(ids), True, False)
    tokens, size, first = list(ids[:n]), L.llama_vocab_n_tokens(vocab), o.c // 2
    assert n >= 2 * o.c, f"{n} tokens are less than two chunks of {o.c}"
    cp = L.llama_context_default_params()
    cp.n_ctx = cp.n_batch = o.c
    cp.n_ubatch, cp.n_threads, cp.n_threads_batch = min(512, o.c), o.t, o.t
    cp.flash_attn_type, cp.type_k, cp.type_v = flash, kv, kv
    ctx = L.llama_init_from_model(loaded, cp)
    batch, nll = L.llama_batch_init(o.c, 0, 1), []
    for chunk in range(n // o.c if o.chunks < 0 else min(o.chunks, n // o.c)):
        part = tokens[chunk * o.c : (chunk + 1) * o.c]
        L.llama_memory_clear(L.llama_get_memory(ctx), True)
        batch.n_tokens = o.c
        for i, token in enumerate(part):
            batch.token[i] = L.llama_vocab_bos(vocab) if i == 0 and L.llama_vocab_get_add_bos(vocab) else token
            batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = i, 1, 0, i >= first
        assert L.llama_decode(ctx, batch) == 0
        logits = np.ctypeslib.as_array(L.llama_get_logits(ctx), shape=(o.c - first, size))[:-1].astype(np.float64)
        top = logits.max(axis=1)
        total = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
        nll += list(total - logits[np.arange(len(logits)), part[first + 1 :]])
    L.llama_batch_free(batch)
    L.llama_free(ctx)
    L.llama_model_free(loaded)
    return float(np.exp(np.mean(nll)))


def llama(model, o, flash=-1, kv=F16):
    if o.llama_perplexity:
        return program(o.llama_perplexity, model, o, flash, kv)
    return library(model, o, flash, kv)


def ostro(model, o):
    args = [o.ostro, "perplexity", model, "-f", o.text, "-c", o.c, "-t", o.t, "--chunks", o.chunks]
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    return float(ESTIMATE.match(done.stdout)[1]) if done.returncode == 0 else sys.exit(done.stderr)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("text", type=Path)
    a.add_argument("models", nargs="+")
    a.add_argument("--ostro", default=Path(__file__).parents[2] / "target/release/ostro")
    a.add_argument("--llama-perplexity")
    a.add_argument("--golden", type=Path)
    a.add_argument("-c", type=int, default=512)
    a.add_argument("-t", type=int, default=os.cpu_count())
    a.add_argument("--chunks", type=int, default=-1)
    o = a.parse_args()
    if o.golden:
        figures = {}
        for model in o.models:
            name, path = model.split("=", 1)
            figures[name] = [round(llama(path, o, flash, kv), 4) for flash, kv in SETTINGS]
            print(name, figures[name], flush=True)
        o.golden.write_text(json.dumps({"text": o.text.name, "ctx_size": o.c, "ppl": figures}) + "\n")
        return
    print("| model | ostro | llama.cpp | ratio |\n|---|---|---|---|")
    for model in o.models:
        ours, theirs = ostro(model, o), llama(model, o)
        print(f"| {Path(model).name} | {ours:.4f} | {theirs:.4f} | {ours / theirs:.5f} |", flush=True)


if __name__ == "__main__":
    main()
