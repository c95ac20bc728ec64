"""Records what transformers makes of the templates beside this file: python record.py > recorded.json

Needs transformers, tokenizers and jinja2. Each case is a template, what apply_chat_template was given, and its text, or
that it failed.
"""

import json
import pathlib
import sys

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
SPECIAL = {
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "qwen2": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "qwen3": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "gemma2": {"bos_token": "<bos>", "eos_token": "<eos>"},
    "gemma3": {"bos_token": "<bos>", "eos_token": "<eos>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>"},
    "constructs": {"bos_token": "<s>"},
}


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments, id="abc123XYZ"):
    return {"type": "function", "id": id, "function": {"name": name, "arguments": arguments}}


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Weather "now" in a place <b>&',
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "description": "Ort, z. B. Köln"}, "days": {"type": "integer"}},
            "required": ["place"],
        },
        "return": {"type": "number"},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Time", "parameters": {}}}
HI = message("user", "  Hello, who are you? 🮔 \n")
CHATS = {
    "one question": [HI],
    "with rules": [message("system", " Be brief. "), HI],
    "answered": [message("system", "Be brief."), HI, message("assistant", " I am a model. "), message("user", "Good.")],
    "ends with an answer": [HI, message("assistant", "I am.")],
    "thoughts": [
        HI,
        message("assistant", "<think>\nHm.\n</think>\n\nI am."),
        message("user", "Sure?"),
        message("assistant", "\nYes.", reasoning_content="\nIndeed.\n"),
    ],
    "older name of thoughts": [HI, message("assistant", "Yes.", reasoning="So it is."), message("user", "Well.")],
    "a call": [
        message("user", "How is it in Köln?"),
        message("assistant", None, tool_calls=[call("weather", {"place": "Köln", "days": 2, "exact": True, "p": 0.1})]),
        message("tool", "cold", tool_call_id="abc123XYZ", name="weather"),
    ],
    "text and two calls": [
        message("system", "Use tools."),
        message("user", "How is it there, and when?"),
        message("assistant", "I look.", tool_calls=[call("weather", {"place": "a\"b'c\\\n"}), call("clock", {})]),
        message("tool", "cold", tool_call_id="abc123XYZ"),
        message("tool", "late", tool_call_id="abc123XYZ"),
        message("assistant", "Cold and late."),
        message("user", "Thanks."),
    ],
    "a call with text": [
        message("user", "Search."),
        message("assistant", "", tool_calls=[call("search", {"query": "lmc", "kind": "all"})]),
        message("tool", {"content": ["a", 1]}, tool_call_id="abc123XYZ"),
    ],
    "a result of another kind": [HI, message("assistant", "Hm."), message("tool", 3.5, tool_call_id="abc123XYZ")],
    "a short id": [HI, message("assistant", None, tool_calls=[call("clock", {}, id="1")])],
    "parts": [
        message("system", [{"type": "text", "text": "Rules."}]),
        message("user", [{"type": "image"}, {"type": "text", "text": " What is it? "}]),
    ],
    "no turns": [message("user", "a"), message("user", "b")],
    "unknown role": [message("poet", "Roses.")],
    "nothing but rules": [message("system", "Rules.")],
}
KWARGS = [
    {"add_generation_prompt": True},
    {"add_generation_prompt": False},
    {"add_generation_prompt": True, "tools": [WEATHER, CLOCK]},
    {"add_generation_prompt": True, "tools": [CLOCK], "tools_in_user_message": False, "enable_thinking": False},
    {"add_generation_prompt": False, "builtin_tools": ["search", "code_interpreter"]},
]
# The families without tools, and those with tools of their own, take some of them.
KWARGS_OF = {"llama3": range(5), "gemma2": range(2), "gemma3": range(2), "constructs": range(1)}


def main():
    cases = []
    for name, special in SPECIAL.items():
        template = (HERE / f"{name}.jinja").read_text(encoding="utf-8")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")), **special)
        tokenizer.chat_template = template
        for chat, messages in CHATS.items():
            for kwargs in KWARGS:
                if KWARGS.index(kwargs) not in KWARGS_OF.get(name, range(4)):
                    continue
                kwargs = {**kwargs, "date_string": "26 Jul 2024"}
                try:
                    text = tokenizer.apply_chat_template(messages, tokenize=False, **kwargs)
                except Exception as error:  # Jinja's errors, and Python's of what a template does
                    text = None
                    print(f"{name}, {chat}: {type(error).__name__}: {error}", file=sys.stderr)
                cases.append({"template": name, "special": special, "chat": chat, "kwargs": kwargs, "text": text})
    print(json.dumps({"chats": CHATS, "cases": cases}, ensure_ascii=False, indent=0))


if __name__ == "__main__":
    main()
