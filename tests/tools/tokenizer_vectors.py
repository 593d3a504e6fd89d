#!/usr/bin/env python3
"""Writes tests/data/tokenizer_vectors.json: token ids by llama.cpp for texts of many kinds.

    tokenizer_vectors.py pre=ggml-vocab-gpt-2.gguf NAME=FILE.gguf ... > tests/data/tokenizer_vectors.json

Needs llama-cpp-python. Per model and text two lists of ids, without BOS: control tokens in the text left as text, and
turned into ids; null where the second is the same. The texts are made here, with a fixed seed. `</s>` is not among
them: Gemma has it as a tag of HTML (user-defined), which sentencepiece honours and llama.cpp overrides by its name.

For `pre` the vocabulary of GPT-2 is given each pre-tokenizer's name in turn; the ids show where it cuts. These texts
have no combining marks, which llama.cpp's tekken and gpt-4o do not count to words as the models' own expressions do.
"""
import json
import os
import random
import struct
import sys
import tempfile
import unicodedata

import llama_cpp

FIXED = [
    "", " ", "  ", "   ", "    ", " " * 7, " " * 17, " " * 64, "\n", "\n\n", "\n\n\n", "\n" * 9, "\n" * 40, "\t", "\t\t\t",
    "\r\n", "\r", "\r\n\r\n", " \n", "\n ", " \t \n", "a\n\n b", "a  \n\n  b", "\u00a0", "a\u00a0b", "a\u3000b",
    "\u2028x\u2029y", "\u200b\u200d\ufeff", "\x00", "a\x00b", "\x01\x1b[0m\x7f", "\x85", "\u0b80",
    "Hello", " Hello", "Hello ", "Hello world", " Hello  world ", "hello WORLD hElLo", "HelloWorld", "HTTPServerError",
    "I'm, you're, he'll, we've, I'd, it's, can't", "I'M YOU'RE HE'LL WE'VE I'D IT'S CAN'T", "'s 't 'S 'T", "''s",
    "don\u2019t", "rock 'n' roll", "0", "7", "42", "123", "1234", "12345678901234567890", "3.14159", "1,000,000.00",
    "-1e-9", "0xDEADBEEF", "1\u00bd\u00b2\u2083", "\u0661\u0662\u0663", "\u2160\u2161", "2+2=4", "10%", "$5.00", "a1b2c3",
    "The quick brown fox jumps over 13 lazy dogs.", "Why is the sky blue?", "...", "!!!", "?!?!", "---", "***", "###",
    "# Title\n\n## Sub\n- item 1\n- item 2\n", "`code` and ```block```", "<b>bold</b>", "<div class=\"x\">&amp;</div>",
    "https://example.org/a/b?c=d&e=%20f#g", "user@example.org", "C:\\Windows\\System32", "/usr/local/bin",
    "def add(a, b):\n    return a + b\n", "for (int i = 0; i < n; ++i) {\n\tx[i] += y[i];\n}\n",
    "fn main() {\n    println!(\"{}\", 1u64 << 40);\n}\n", "SELECT * FROM t WHERE a >= 3;", "{\"a\": [1, 2, {\"b\": null}]}",
    "if x:\n        y()\n            z()\n\n\n", "a_b_c camelCase snake_case SCREAMING_CASE kebab-case",
    "caf\u00e9 na\u00efve \u00fcber \u00c5ngstr\u00f6m", "cafe\u0301 nai\u0308ve", "Stra\u00dfe \u017ft \u0130\u0131",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!", "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5", "\u4f60\u597d\uff0c\u4e16\u754c\uff01",
    "\u4f60\u597d world \u4e16\u754c", "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8\u3067\u3059\u3002", "\u30ab\u30bf\u30ab\u30ca\uff76\uff85", "\ud55c\uad6d\uc5b4 \ubb38\uc7a5\uc785\ub2c8\ub2e4.",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u1f00\u1f01\u1f02", "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1fa\U0001f1f3", "\U0001f44d\U0001f3fd ok \u2764\ufe0f",
    "\U00010348\U0001d54f", "\u20ac\u00a3\u00a5", "\u2200x\u2208\u211d: x\u00b2\u22650", "\u2581", "a\u2581b", "\u2581\u2581", "\u0120\u010a", "\ufffd", "\ue000\U000f0000",
    "<s>", "<unk>", "<pad>", "<bos>", "<eos>", "<0x0A>", "a<0x41>b", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
    "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>b", "a <|im_end|> b", "<|im_end|><|im_end|>",
    "<bos><start_of_turn>user\nHi there<end_of_turn>\n<start_of_turn>model\n", "x<end_of_turn>y", "<start_of_turn", "<unused1>",
    "<|im_start|", "|im_start|>", "<<|im_start|>>", "[INST] Hi [/INST]", "<start_of_image>", "<h1>t</h1>", "<table><tr><td>",
]
WORDS = ("the of and to in is that for it as was with be by on not he his but at are this have from or one had word all "
         "Transformer attention tokenization internationalization antidisestablishmentarianism GGUF x y z 1 22 333 4444 "
         "int return self.x == != => -> :: && || // /* */ {} () [] ; , . ! ? \" ' ` ~ @ # $ % ^ & * _ - + = < > \\ |").split()
RANGES = [(0x20, 0x7e), (0xa1, 0x17f), (0x370, 0x3ff), (0x400, 0x4ff), (0x5d0, 0x5ea), (0x620, 0x64a), (0x905, 0x939),
          (0xe01, 0xe3a), (0x1100, 0x11ff), (0x2000, 0x206f), (0x2190, 0x22ff), (0x3041, 0x30ff), (0x4e00, 0x9fff),
          (0xac00, 0xd7a3), (0xff01, 0xff5e), (0x1f300, 0x1f6ff), (0x10000, 0x1ffff)]


def texts():
    rng = random.Random(22)
    out = list(FIXED)
    for n in range(40):
        gap = lambda: rng.choice([" ", " ", " ", "  ", "\n", "", "\t", "\n\n", "    ", ", "])
        out.append("".join(rng.choice(WORDS) + gap() for _ in range(rng.randrange(2, 30))))
    for n in range(60):
        low, high = rng.choice(RANGES)
        chars = (chr(rng.randint(low, high)) if rng.random() < 0.8 else rng.choice(" \n\tae1.") for _ in range(rng.randrange(1, 24)))
        out.append("".join(chars))
    for n in range(20):
        out.append("".join(chr(rng.randint(*rng.choice(RANGES))) for _ in range(rng.randrange(1, 40))))
    return out


PRES = ("default gpt-2 llama-bpe dbrx glm4 qwen2 qwen35 deepseek-llm deepseek-coder deepseek-v3 spark2_5 command-r falcon "
        "poro-chat viking tekken gpt-4o youtu chameleon bailingmoe seed-coder exaone-moe minicpm5 ufakzeka laguna kimi-k2").split()
BITS = [" ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "'Re", "1", "23", "4567", "/", "//", "\u3000", "\u00e9", "\u4e2d", "\u65e5\u672c",
        "\u30ab", "\ud55c\uae00", "!", "\uff01", "\u3002", "$", "+", "\u01c5", "\u02b0", "\u00aa", "\u00b2", "\u096b"]


def pre_texts():
    rng = random.Random(5)
    out = []
    for n in range(24):
        text = ""
        for _ in range(rng.randrange(10, 34)):
            kind = rng.random()
            text += rng.choice(WORDS) if kind < 0.3 else rng.choice(BITS) if kind < 0.65 else chr(rng.randint(*rng.choice(RANGES)))
        out.append("".join(c for c in text if not unicodedata.category(c).startswith("M")))
    return out


def load(path):
    return llama_cpp.Llama(model_path=path, vocab_only=True, verbose=False)


def with_pre(path, name):
    """The file with another tokenizer.ggml.pre; it has no tensors, so nothing else moves."""
    with open(path, "rb") as f:
        data = f.read()
    key = b"tokenizer.ggml.pre"
    at = data.index(struct.pack("<Q", len(key)) + key) + 8 + len(key) + 4
    (old,) = struct.unpack_from("<Q", data, at)
    with tempfile.NamedTemporaryFile(suffix=".gguf", delete=False) as f:
        f.write(data[:at] + struct.pack("<Q", len(name)) + name.encode() + data[at + 8 + old:])
    try:
        return load(f.name)
    finally:
        os.unlink(f.name)


def main():
    out = [f'"made by": "llama.cpp through llama-cpp-python {llama_cpp.__version__}, tests/tools/tokenizer_vectors.py"']
    block = lambda name, rows: f'"{name}": [\n' + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "\n]"
    out.append(block("texts", texts()))
    for argument in sys.argv[1:]:
        name, path = argument.split("=", 1)
        if name == "pre":
            out.append(block("pre texts", pre_texts()))
            for pre in PRES:
                model = with_pre(path, pre)
                out.append(block(f"pre {pre}", [model.tokenize(t.encode(), add_bos=False, special=False) for t in pre_texts()]))
            continue
        model = load(path)
        rows = []
        for text in texts():
            plain = model.tokenize(text.encode(), add_bos=False, special=False)
            special = model.tokenize(text.encode(), add_bos=False, special=True)
            rows.append([plain, None if special == plain else special])
        out.append(block(name, rows))
    print("{\n" + ",\n".join(out) + "\n}")


main()
