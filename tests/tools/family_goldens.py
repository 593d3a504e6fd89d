#!/usr/bin/env python3
"""Make tests/data/families.json: the logits of llama.cpp for the small models that tests/families.rs writes.

Needs llama-cpp-python. First let the test write its models (it fails while there are no goldens):
    echo '{"logits": {}}' > tests/data/families.json
    OSTRO_WRITE_FAMILIES=FOLDER cargo test --test families
then: family_goldens.py FOLDER tests/data/families.json
Six digits are kept of each logit.
"""
import json, pathlib, sys
import numpy as np
import llama_cpp as L

TOKENS = [(i * 29 + 3) % 96 for i in range(40)]


def logits(path, n_ctx):
    params = L.llama_model_default_params()
    model = L.llama_model_load_from_file(str(path).encode(), params)
    assert model, path
    size = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
    cp = L.llama_context_default_params()
    cp.n_ctx, cp.n_batch, cp.n_ubatch, cp.n_threads, cp.flash_attn_type = n_ctx, 64, 64, 1, 0
    cp.type_k = cp.type_v = 0  # f32
    ctx = L.llama_init_from_model(model, cp)
    rows = []
    for t in TOKENS:
        one = (L.llama_token * 1)(t)
        assert L.llama_decode(ctx, L.llama_batch_get_one(one, 1)) == 0
        rows.append(np.ctypeslib.as_array(L.llama_get_logits(ctx), shape=(size,)).copy())
    L.llama_free(ctx)
    L.llama_model_free(model)
    return np.concatenate(rows)


def main():
    folder, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    L.llama_backend_init()
    result = {}
    for path in sorted(folder.glob("*.gguf")):
        # Which table of factors is used depends on the context.
        values = logits(path, 1024 if "long" in path.stem else 64)
        print(path.stem, len(values), float(values.std()))
        result[path.stem] = [float(f"{v:.6g}") for v in values]
    out.write_text(json.dumps({"made_by": "llama-cpp-python " + L.__version__, "logits": result}))


main()
