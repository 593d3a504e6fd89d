"""Conversations as mistral-common encodes them in its forms v1, v2 and v3, made at random: writes
tests/data/mistral_chats.json.

    pip install mistral-common==1.13.1
    python3 tests/tools/mistral_chats.py > tests/data/mistral_chats.json

Each case has the messages and tools in the OpenAI form, and of each version the text (with a space for SentencePiece's
mark) and the ids, or the fact that it refuses them. The vocabularies of v2 and v3 are the same but for names.
"""

import json
import random
import warnings

from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

warnings.filterwarnings("ignore")
random.seed(7)
TEXTS = ["Hello", " two spaces  ", "line\nline", "[INST] no [/INST]</s>", "Grüße 😀", "1234 + 5", "", "你好，世界", "a\tb", "{\"x\": 1.50, \"y\": [true, null]}"]
NAMES = ["get_weather", "search-web", "f"]
IDS = ["VvvODy9mT", "abcdefghi", "123456789"]
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Météo", "parameters": {"type": "object", "properties": {"q": {"type": "string", "default": 1e-7}}}}}
BARE = {"type": "function", "function": {"name": "now", "parameters": {}}}


def conversation():
    messages = []
    if random.random() < 0.4:
        messages.append({"role": "system", "content": random.choice(TEXTS[:5])})
    for _ in range(random.randint(1, 3)):
        for _ in range(random.choice([1, 1, 1, 2])):
            messages.append({"role": "user", "content": random.choice(TEXTS)})
        kind = random.random()
        if kind < 0.35:
            calls = random.sample(IDS, random.choice([1, 1, 2]))
            messages.append({"role": "assistant", "content": None, "tool_calls": [
                {"id": i, "type": "function", "function": {"name": random.choice(NAMES), "arguments": random.choice(['{"q": "é", "n": 2.0}', "{}", "no json"])}} for i in calls]})
            for i in calls[: random.choice([len(calls), len(calls), 1])]:
                messages.append({"role": "tool", "tool_call_id": i, "name": random.choice(NAMES), "content": random.choice(TEXTS)})
        if kind < 0.1 or kind > 0.35:
            messages.append({"role": "assistant", "content": random.choice(TEXTS)})
    if random.random() < 0.85:
        messages.append({"role": "user", "content": random.choice(TEXTS)})
    elif random.random() < 0.5 and messages[-1]["role"] == "assistant" and messages[-1].get("content"):
        messages[-1]["prefix"] = True
    return messages, random.choice([None, None, [TOOL], [TOOL, BARE]])


def main():
    tokenizers = {"v1": MistralTokenizer.v1(), "v2": MistralTokenizer.v2(), "v3": MistralTokenizer.v3()}
    cases = []
    for _ in range(160):
        messages, tools = conversation()
        case = {"messages": messages, "tools": tools}
        for version, tokenizer in tokenizers.items():
            try:
                request = ChatCompletionRequest.from_openai(messages, tools=tools)
                if messages[-1].get("prefix"):
                    request.messages[-1].prefix = True  # from_openai forgets it
                found = tokenizer.encode_chat_completion(request)
                case[version] = {"text": found.text.replace("▁", " "), "ids": found.tokens}
            except Exception as error:
                case[version] = {"refused": f"{type(error).__name__}: {error}"[:120]}
        cases.append(case)
    print(json.dumps({"mistral_common": "1.13.1", "cases": cases}, ensure_ascii=False))


main()
