"""What llama.cpp writes for its named chat templates: writes tests/data/chat_forms.json.

    pip install llama-cpp-python==0.3.36
    python3 tests/tools/chat_forms.py > tests/data/chat_forms.json
"""

import ctypes
import json

import llama_cpp

NAMES = ["llama3", "llama4", "phi4", "chatml", "gemma", "command-r", "granite", "deepseek3", "deepseek2", "phi3", "exaone3",
         "openchat", "mistral-v7", "mistral-v7-tekken", "mistral-v3-tekken", "llama2", "llama2-sys", "llama2-sys-bos", "falcon3",
         "zephyr", "monarch", "orion", "vicuna", "vicuna-orca", "deepseek"]
SAID = [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi there"), ("user", "  Who are you?")]


def render(name, said, answer):
    chat = (llama_cpp.llama_chat_message * len(said))(*[
        llama_cpp.llama_chat_message(role=role.encode(), content=text.encode()) for role, text in said])
    room = ctypes.create_string_buffer(8192)
    n = llama_cpp.llama_chat_apply_template(name.encode(), chat, len(said), answer, room, len(room))
    assert 0 < n < len(room), (name, n)
    return room.raw[:n].decode()


cases = []
for name in NAMES:
    for said, answer in [(SAID, True), (SAID[1:], True), (SAID[1:3], False)]:
        messages = [{"role": role, "content": text} for role, text in said]
        cases.append({"name": name, "messages": messages, "answer": answer, "expected": render(name, said, answer)})
print(json.dumps({"llama_cpp_python": llama_cpp.__version__, "cases": cases}, ensure_ascii=False))
