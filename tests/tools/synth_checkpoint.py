#!/usr/bin/env python3
"""Write a Hugging Face checkpoint of Mixtral's or Mistral's shape with random weights in BF16, to try `ostro quantize`.

Needs numpy only. Usage: synth_checkpoint.py FOLDER --tokenizer tokenizer.model [--shape mixtral-8x22b|mistral-7b|small-moe]
[--layers 2] [--shard-gb 5]. Weights repeat every 64 MB, each tensor beginning at another place. The folder is as large as
the model: 5.0 GB a layer of 8x22B, and 0.8 GB.
"""
import argparse, json, shutil, struct
from pathlib import Path
import numpy as np

#        width  hidden heads kv experts vocabulary
SHAPES = {
    "mixtral-8x22b": (6144, 16384, 48, 8, 8, 32768),
    "mistral-7b": (4096, 14336, 32, 8, 0, 32768),
    "small-moe": (1024, 3584, 16, 4, 8, 32768),
}


def tensors(shape, layers):
    width, hidden, heads, kv, experts, vocabulary = shape
    yield "model.embed_tokens.weight", (vocabulary, width)
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (width,)
        yield p + "post_attention_layernorm.weight", (width,)
        for name, rows in [("q", width), ("k", width // heads * kv), ("v", width // heads * kv), ("o", width)]:
            yield f"{p}self_attn.{name}_proj.weight", (rows, width)
        if experts:
            yield p + "block_sparse_moe.gate.weight", (experts, width)
            for e in range(experts):
                for name, dims in [("w1", (hidden, width)), ("w2", (width, hidden)), ("w3", (hidden, width))]:
                    yield f"{p}block_sparse_moe.experts.{e}.{name}.weight", dims
        else:
            for name, dims in [("gate", (hidden, width)), ("down", (width, hidden)), ("up", (hidden, width))]:
                yield f"{p}mlp.{name}_proj.weight", dims
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (vocabulary, width)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="mixtral-8x22b")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--shard-gb", type=float, default=5)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    width, hidden, heads, kv, experts, vocabulary = shape = SHAPES[args.shape]
    config = {
        "architectures": ["MixtralForCausalLM" if experts else "MistralForCausalLM"],
        "model_type": "mixtral" if experts else "mistral",
        "hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": args.layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "vocab_size": vocabulary, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
        "rope_theta": 1e6, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
        "sliding_window": None, "hidden_act": "silu",
    }
    if experts:
        config |= {"num_local_experts": experts, "num_experts_per_tok": 2}
    (args.folder / "config.json").write_text(json.dumps(config, indent=1))
    shutil.copy(args.tokenizer, args.folder / "tokenizer.model")

    rng = np.random.default_rng(7)
    pool = (rng.standard_normal(32 << 20, dtype=np.float32) * 0.02).view(np.uint32)
    pool = ((pool + 0x7FFF + ((pool >> 16) & 1)) >> 16).astype(np.uint16)
    shards, size = [[]], 0
    for name, dims in tensors(shape, args.layers):
        n = int(np.prod(dims)) * 2
        if size and size + n > args.shard_gb * 1e9:
            shards.append([])
            size = 0
        shards[-1].append((name, dims, n))
        size += n
    index, start = {}, 0
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        header, offset = {}, 0
        for name, dims, n in shard:
            header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [offset, offset + n]}
            index[name], offset = file, offset + n
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(args.folder / file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for name, dims, n in shard:
                left, start = n // 2, (start + 100_003) % len(pool)
                if len(dims) == 1:
                    out.write(np.full(left, 0x3F80, np.uint16).tobytes())
                    continue
                at = start
                while left:
                    part = pool[at:at + left]
                    out.write(part.tobytes())
                    left, at = left - len(part), 0
    if len(shards) > 1:
        text = json.dumps({"metadata": {}, "weight_map": index})
        (args.folder / "model.safetensors.index.json").write_text(text)


main()
