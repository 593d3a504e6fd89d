#!/usr/bin/env python3
"""Write a GGUF file in BF16 of some layers of a large model's shapes with random weights and no vocabulary, to measure with.

Needs numpy only. Usage: synth_family.py OUT.gguf [--shape qwen3-30b-a3b|deepseek-v2-lite] [--layers 4]; then
`ostro quantize OUT.gguf OUT-q4.gguf Q4_K_M` and tests/tools/peer_speed.py. Weights repeat every 64 MB.
"""
import argparse, struct
import numpy as np

U32, F32, STRING, BOOL = 4, 6, 8, 7


def qwen3(layers):
    dim, vocab, experts, hidden = 2048, 151936, 128, 768
    keys = {"attention.head_count": 32, "attention.head_count_kv": 4, "attention.key_length": 128, "attention.value_length": 128,
            "expert_count": experts, "expert_used_count": 8, "expert_feed_forward_length": hidden, "feed_forward_length": 6144}
    def layer(i):
        yield "attn_norm", (dim,)
        yield "attn_q_norm", (128,)
        yield "attn_k_norm", (128,)
        for name, rows, cols in [("q", 4096, dim), ("k", 512, dim), ("v", 512, dim), ("output", dim, 4096)]:
            yield f"attn_{name}", (cols, rows)
        yield from experts_of(dim, hidden, experts)
    return "qwen3moe", dim, vocab, keys, layer


def deepseek(layers):
    dim, vocab, experts, hidden, heads = 2048, 102400, 64, 1408, 16
    keys = {"attention.head_count": heads, "attention.head_count_kv": 1, "attention.kv_lora_rank": 512,
            "attention.key_length": 576, "attention.value_length": 512, "attention.key_length_mla": 192,
            "attention.value_length_mla": 128, "rope.dimension_count": 64, "leading_dense_block_count": 1,
            "expert_count": experts, "expert_used_count": 6, "expert_shared_count": 2,
            "expert_feed_forward_length": hidden, "feed_forward_length": 10944, "vocab_size": vocab}
    def layer(i):
        yield "attn_norm", (dim,)
        yield "attn_q", (dim, heads * 192)
        yield "attn_kv_a_mqa", (dim, 576)
        yield "attn_kv_a_norm", (512,)
        yield "attn_k_b", (128, 512, heads)
        yield "attn_v_b", (512, 128, heads)
        yield "attn_output", (heads * 128, dim)
        if i == 0:
            yield "ffn_norm", (dim,)
            yield "ffn_gate", (dim, 10944)
            yield "ffn_up", (dim, 10944)
            yield "ffn_down", (10944, dim)
        else:
            yield from experts_of(dim, hidden, experts)
            yield "ffn_gate_shexp", (dim, 2 * hidden)
            yield "ffn_up_shexp", (dim, 2 * hidden)
            yield "ffn_down_shexp", (2 * hidden, dim)
    return "deepseek2", dim, vocab, keys, layer


def experts_of(dim, hidden, n):
    yield "ffn_norm", (dim,)
    yield "ffn_gate_inp", (dim, n)
    yield "ffn_gate_exps", (dim, hidden, n)
    yield "ffn_up_exps", (dim, hidden, n)
    yield "ffn_down_exps", (hidden, dim, n)


SHAPES = {"qwen3-30b-a3b": qwen3, "deepseek-v2-lite": deepseek}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-30b-a3b")
    parser.add_argument("--layers", type=int, default=4)
    args = parser.parse_args()
    arch, dim, vocab, keys, layer = SHAPES[args.shape](args.layers)
    keys = {f"{arch}.{k}": v for k, v in keys.items()} | {
        f"{arch}.block_count": args.layers, f"{arch}.context_length": 32768, f"{arch}.embedding_length": dim,
        f"{arch}.vocab_size": vocab, f"{arch}.attention.layer_norm_rms_epsilon": 1e-6, f"{arch}.rope.freq_base": 1e6,
        "general.architecture": arch, "general.file_type": 32, "tokenizer.ggml.model": "no_vocab"}
    tensors = [("token_embd.weight", (dim, vocab)), ("output_norm.weight", (dim,)), ("output.weight", (dim, vocab))]
    tensors += [(f"blk.{i}.{name}.weight", dims) for i in range(args.layers) for name, dims in layer(i)]
    text = lambda s: struct.pack("<Q", len(s)) + s.encode()
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key in sorted(keys, key=lambda k: k != "general.architecture"):
        value = keys[key]
        kind, packed = ((STRING, text(value)) if isinstance(value, str) else
                        (F32, struct.pack("<f", value)) if isinstance(value, float) else (U32, struct.pack("<I", value)))
        header += text(key) + struct.pack("<I", kind) + packed
    # Vectors and routers are F32 (type 0), the rest BF16 (30).
    floats = lambda name, dims: len(dims) == 1 or "gate_inp." in name
    at = 0
    for name, dims in tensors:
        header += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0 if floats(name, dims) else 30, at)
        at += -(-int(np.prod(dims)) * (4 if floats(name, dims) else 2) // 32) * 32
    random = np.random.default_rng(1)
    block = (random.standard_normal(32 << 20, dtype=np.float32) * np.float32(0.02)).view(np.uint32)
    block = ((block + 0x8000) >> 16).astype(np.uint16)
    with open(args.out, "wb") as out:
        out.write(header + bytes(-len(header) % 32))
        for number, (name, dims) in enumerate(tensors):
            n = int(np.prod(dims))
            if floats(name, dims):
                data = random.standard_normal(n, dtype=np.float32) * np.float32(0.05) + np.float32("norm" in name)
                out.write(data.tobytes())
            else:
                start, left = number * 977 % (16 << 20), n
                while left:
                    part = block[start:start + left]
                    out.write(part.tobytes())
                    left -= len(part)
                    start = 0
            out.write(bytes(-out.tell() % 32))


main()
