"""Checks and measures `lmc serve` with OpenAI's client: python tests/serving/check.py target/release/lmc [--seconds 60]

Needs openai, tokenizers, torch and transformers. Makes a small Llama with random weights, serves it, and checks answers
streamed and whole; then counts the tokens of one client and of many in the same time, and cancels many requests, with the
memory of the server before and after. Exit code 1 if a check fails.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import torch
import transformers
from openai import BadRequestError, OpenAI
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def make_model(folder, hidden):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=257, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, eos_token_id=256, bos_token_id=None,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def resident_kb(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1))


def metric(base, name):
    text = urllib.request.urlopen(base + "/metrics").read().decode()
    return float(re.search(rf"^{name} (\S+)$", text, re.M).group(1))


def check(what, holds, found=""):
    print(f"{'ok  ' if holds else 'FAIL'} {what} {found}", flush=True)
    return holds


def check_answers(client, model):
    good = True
    messages = [{"role": "user", "content": "Hello ö€"}]
    asked = dict(model=model, messages=messages, max_tokens=40, seed=7, temperature=0.8)
    whole = client.chat.completions.create(**asked)
    again = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    text = whole.choices[0].message.content
    good &= check("the same seed gives the same chat", text == again.choices[0].message.content)
    good &= check("a stream gives the same chat", text == streamed, repr(text[:40]))
    good &= check("and the same usage", chunks[-1].usage == whole.usage, str(whole.usage.completion_tokens))
    several = client.completions.create(
        model=model, prompt=["ab", "cd"], n=2, max_tokens=8, logprobs=2, seed=1, extra_body={"ignore_eos": True}
    )
    good &= check("four choices of two prompts", [c.index for c in several.choices] == [0, 1, 2, 3])
    good &= check("with log-probabilities", len(several.choices[0].logprobs.token_logprobs) == 8)
    greedy = client.completions.create(model=model, prompt="ab", max_tokens=30, temperature=0).choices[0]
    stop = greedy.text[4:6]
    stopped = client.completions.create(model=model, prompt="ab", max_tokens=30, temperature=0, stop=stop).choices[0]
    expected = greedy.text[: greedy.text.index(stop)]
    good &= check("a stop string ends a text", (stopped.text, stopped.finish_reason) == (expected, "stop"), repr(stop))
    vectors = client.embeddings.create(model=model, input=["one", "two"]).data
    good &= check("embeddings", len(vectors) == 2 and len(vectors[0].embedding) > 0, str(len(vectors[0].embedding)))
    good &= check("the models", [m.id for m in client.models.list()] == [model])
    try:
        client.completions.create(model=model, prompt="a", temperature=-1)
        good &= check("a wrong field is refused", False)
    except BadRequestError as error:
        good &= check("a wrong field is refused", error.param == "temperature", error.message)
    return good


def throughput(base, model, clients, seconds, tokens):
    """Generated tokens a second of so many clients, each with one request at a time, and their errors."""
    end = time.monotonic() + seconds
    counts, errors = [0] * clients, []

    def work(index):
        client = OpenAI(base_url=base + "/v1", api_key="none", max_retries=0)
        while time.monotonic() < end:
            try:
                stream = (index % 2) == 0
                answer = client.completions.create(
                    model=model, prompt=f"client {index} ", max_tokens=tokens, stream=stream,
                    extra_body={"ignore_eos": True},
                    **({"stream_options": {"include_usage": True}} if stream else {}),
                )
                if stream:
                    answer = list(answer)[-1]
                counts[index] += answer.usage.completion_tokens
            except Exception as error:
                errors.append(repr(error))

    began = time.monotonic()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(clients)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return sum(counts) / (time.monotonic() - began), errors


def cancel_many(base, model, count):
    client = OpenAI(base_url=base + "/v1", api_key="none", max_retries=0)

    def cancel(number):
        for i in range(number):
            stream = client.completions.create(
                model=model, prompt="abc " * (i % 50 + 1), max_tokens=500, stream=True, extra_body={"ignore_eos": True}
            )
            next(iter(stream))
            stream.close()

    threads = [threading.Thread(target=cancel, args=(count // 8,)) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    while metric(base, "lmc_running") > 0:
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lmc")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--cancelled", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder, args.hidden)
        command = [args.lmc, "serve", folder, "--port", "0", "--name", "small", "--slots", str(args.slots)]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        for line in server.stderr:
            print(line, end="")
            if found := re.search(r"http://\S+?(?=:? )", line):
                base = found.group(0).rstrip(":")
                break
        else:
            sys.exit("the server did not start")
        threading.Thread(target=lambda: [print(line, end="") for line in server.stderr], daemon=True).start()
        client = OpenAI(base_url=base + "/v1", api_key="none", max_retries=0)
        good = check_answers(client, "small")
        one, errors = throughput(base, "small", 1, min(args.seconds, 20), 64)
        good &= check("one client", not errors, f"{one:.0f} tokens/s {errors[:1]}")
        many, errors = throughput(base, "small", args.clients, args.seconds, 64)
        good &= check(f"{args.clients} clients", not errors, f"{many:.0f} tokens/s {errors[:1]}")
        good &= check("the throughput of many is at least 3 times that of one", many >= 3 * one, f"{many / one:.1f}")
        # The first ones fill what allocators keep.
        cancel_many(base, "small", args.cancelled)
        before = resident_kb(server.pid)
        cancelled = metric(base, "lmc_cancelled_total")
        cancel_many(base, "small", args.cancelled)
        grown = resident_kb(server.pid) - before
        cancelled = metric(base, "lmc_cancelled_total") - cancelled
        good &= check("the cancelled requests were given up", cancelled >= 0.9 * args.cancelled, f"{cancelled:.0f}")
        good &= check("cancelled requests leave no memory behind", grown < 4096, f"{grown} kB of {before} kB")
        server.terminate()
        good &= check("SIGTERM ends it with exit code 0", server.wait(60) == 0)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
