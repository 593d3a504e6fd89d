#!/usr/bin/env python3
"""Make tests/data/teacher_forced.json: what llama.cpp predicts after each of 256 given tokens, for the real models.

Needs llama-cpp-python. Usage: teacher_forced.py OUT.json NAME=MODEL.gguf ...
For each model: the token ids of a fixed text, the best token after every position as llama.cpp's defaults give it, and
whether llama.cpp gives the same token with five other settings of its attention. It rounds activations to 8 bits, so
any other rounding before them moves the logits by some 3 %, and where two tokens are close it disagrees with itself.
"""
import json, sys
import numpy as np
import llama_cpp as L

TEXT = """The lighthouse keeper wrote in his journal every evening, even when there was nothing to report but wind.
On the third of November he noted that the lamp had burned for fourteen hours, that two ships had passed to the north,
and that a gull with one leg had taken to sleeping on the sill. "Company of a kind," he wrote. The next day the storm
came. It began as a low grey line above the water, no thicker than a pencil stroke, and by noon it had eaten the whole
of the western sky. He climbed the 217 steps to the lantern room, trimmed the wick, and counted the seconds between the
flash and the thunder: nine, then six, then two. In 1887 a storm like this one had broken the glass; he remembered how
the sea had tasted in the dark. def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2). When the morning came the
harbour was full of broken timber, and people walked along the shore without speaking, picking up what was theirs and
what was not. What would you have done? He asked himself the same question, and he did not know the answer either.
Later, in the village, they said that the light had never gone out, which was true, and that he had never been afraid,
which was not. """


F32, F16, Q8_0 = 0, 1, 8
# Flash attention (-1 is the default, automatic), type of the cache; the first are the defaults.
SETTINGS = [(-1, F16), (0, F16), (0, F32), (1, F32), (1, Q8_0), (0, Q8_0)]


def predict(model, vocab, ids, flash, kv):
    """The best token after each of `ids`, given one at a time."""
    cp = L.llama_context_default_params()
    cp.n_ctx, cp.n_threads, cp.flash_attn_type, cp.type_k = 512, 2, flash, kv
    cp.type_v = kv if flash != 0 or kv != Q8_0 else F16  # llama.cpp quantizes values with flash attention only
    ctx = L.llama_init_from_model(model, cp)
    best, size = [], L.llama_vocab_n_tokens(vocab)
    for t in ids:
        arr = (L.llama_token * 1)(t)
        assert L.llama_decode(ctx, L.llama_batch_get_one(arr, 1)) == 0
        best.append(int(np.ctypeslib.as_array(L.llama_get_logits(ctx), shape=(size,)).argmax()))
    L.llama_free(ctx)
    return best


def main():
    out, result = sys.argv[1], {"text": TEXT, "made_by": "llama-cpp-python " + __import__("llama_cpp").__version__}
    L.llama_backend_init()
    for spec in sys.argv[2:]:
        name, path = spec.split("=", 1)
        params = L.llama_model_default_params()
        model = L.llama_model_load_from_file(path.encode(), params)
        vocab = L.llama_model_get_vocab(model)
        ids = (L.llama_token * 1024)()
        data = TEXT.encode()
        n = L.llama_tokenize(vocab, data, len(data), ids, 1024, True, True)
        assert n >= 256, n
        ids = list(ids[:256])
        runs = [predict(model, vocab, ids, *setting) for setting in SETTINGS]
        same = [int(all(run[i] == runs[0][i] for run in runs)) for i in range(len(ids))]
        agreement = [sum(a == b for a, b in zip(run, runs[0])) / len(ids) for run in runs]
        print(name, "agreement with the defaults:", agreement, "positions that agree in all:", sum(same), file=sys.stdout)
        result[name] = {"tokens": ids, "best": runs[0], "same_in_all_settings": same}
    json.dump(result, open(out, "w"))


main()
