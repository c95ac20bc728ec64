#!/usr/bin/env python3
"""Checks and measures lmc on a GPU, in less than nine minutes, and prints a table.

    tests/gpu/check.py --lmc target/release/lmc                          lmc alone
    tests/gpu/check.py --lmc target/release/lmc --peer /venv/bin/python  beside PyTorch, which that Python has
    .. --jax-peer /venv/bin/python                                       beside JAX too, with cuDNN's attention

Builds nothing: it runs the program that --lmc names, and needs only Python 3 itself. What there was no time for, or no
peer, is listed as left out; what is wrong ends the script with exit code 1, after everything else.

Without a GPU, --preset tiny --device cpu runs the same stages with a small model, which checks this script and not lmc.
"""

import argparse
import datetime
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent

LM_100M = dict(vocab_size=32000, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=4,
               head_dim=64, intermediate_size=2048, rope_theta=10000.0, rms_norm_eps=1e-5, seq_len=2048)
LM_1B = dict(vocab_size=32000, hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
             head_dim=64, intermediate_size=8192, rope_theta=500000.0, rms_norm_eps=1e-5, seq_len=4096)
TINY = dict(vocab_size=512, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            intermediate_size=128, rope_theta=10000.0, rms_norm_eps=1e-5, seq_len=64)

# Models to time with their micro-batches, the one whose loss curve is compared, and steps of a curve.
PRESETS = {
    "full": dict(timed=[("100M", LM_100M, [2, 8, 32]), ("1B", LM_1B, [1])], curve=LM_100M, curve_steps=50, timed_steps=23),
    "tiny": dict(timed=[("tiny", TINY, [2, 4])], curve=TINY, curve_steps=50, timed_steps=6),
}

# The first steps of a run warm up: they are not timed.
WARM_UP = 3

# Programs that are compiled before their turn, side by side: none of this is timed.
AHEAD = 4

# The warm-up of `examples/lm-100m.toml`, whose first steps a curve is made of. Without one, at the full learning rate, these
# runs are chaotic: PyTorch and JAX, too, are apart from each other soon.
CURVE_WARM_UP = 1000

# How far a loss may be from PyTorch's at any step. In bfloat16 both round their products, each in its own order.
CURVE_TOLERANCE = {"bfloat16": 0.02, "float32": 0.001}


class Failure(Exception):
    """A command that failed, with what it said."""


class NoDevice(Exception):
    """There is nothing to check on."""


class Started:
    """A process that is not waited for: it is ended on the way out of `with`. What it says on stderr is read aside."""

    def __init__(self, command, folder, environment):
        try:
            self.process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                            text=True, cwd=folder, env=environment)
        except OSError as error:
            raise Failure(f"{command[0]} does not run: {error}") from None
        self.said = []
        self.reader = threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def words(self):
        """What an ended process said. Its own children may hold stderr open longer."""
        self.reader.join(timeout=5)
        return "".join(self.said)

    def failure(self):
        return Failure(f"exit code {self.process.returncode}: " + last_lines(self.words()))


def last_lines(text):
    return " / ".join(text.strip().splitlines()[-4:])


class Check:
    """What was asked for, the folder to work in, and what was found so far."""

    def __init__(self, arguments, folder):
        self.arguments = arguments
        self.folder = folder
        self.preset = PRESETS[arguments.preset]
        self.begin = time.monotonic()
        self.rows = []
        self.problems = []
        # Compiled programs of an empty cache, with the plugins of the real one: cold is then really cold.
        real = Path(os.environ.get("LMC_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmc")
        cache = folder / "cache"
        cache.mkdir()
        (real / "plugins").mkdir(parents=True, exist_ok=True)
        (cache / "plugins").symlink_to(real.resolve() / "plugins")
        self.environment = dict(os.environ, LMC_CACHE=str(cache))
        # What the peers compiled ahead is there when they are timed; JAX leaves memory to the others meanwhile.
        self.peer_environment = dict(
            os.environ,
            JAX_COMPILATION_CACHE_DIR=str(folder / "jax-cache"),
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
            TORCHINDUCTOR_CACHE_DIR=str(folder / "torch-cache"),
            XLA_PYTHON_CLIENT_PREALLOCATE="false",
        )
        if arguments.device == "cpu":
            # `lmc doctor` would look at a GPU where there is one.
            self.environment["CUDA_VISIBLE_DEVICES"] = ""

    def left(self):
        """Seconds left."""
        return self.arguments.minutes * 60 - (time.monotonic() - self.begin)

    def row(self, stage, what, result):
        self.rows.append((stage, what, result))
        print(f"  {stage:12} {what:34} {result}", flush=True)

    def problem(self, stage, what, why):
        self.problems.append(f"{stage}, {what}: {why}")
        self.row(stage, what, f"WRONG: {why}")

    def run(self, command, environment=None):
        """The output of a command; it is ended when the time is up."""
        try:
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=self.folder,
                                  env=environment or self.environment, timeout=max(self.left(), 1))
        except subprocess.TimeoutExpired:
            raise Failure("no time left: it was ended") from None
        except OSError as error:
            raise Failure(f"{command[0]} does not run: {error}") from None
        if done.returncode != 0:
            raise Failure(f"exit code {done.returncode}: " + last_lines(done.stderr.strip() or done.stdout))
        return done.stdout

    def config(self, name, model, from_weights=False, warmup_steps=0, deterministic=False, **changes):
        """Writes a config of lmc and gives its path and run folder."""
        out = self.folder / "runs" / name
        sizes = "\n".join(f"{key} = {value}" for key, value in model.items() if key != "seq_len")
        train = dict(steps=50, seq_len=model["seq_len"], micro_batch_size=2, grad_accum_steps=1, seed=1337,
                     precision=self.arguments.precision, eval_every=0, save_every=0, keep_last=1, out_dir=str(out))
        train.update(changes)
        lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in train.items())
        path = self.folder / f"{name}.toml"
        path.write_text(
            f'[model]\narch = "llama"\n{sizes}\ntie_word_embeddings = true\n'
            + (f'init_from = "{self.weights(model)}"\n' if from_weights else "")
            + f'[data]\ntrain = "{self.tokens(model)}"\ntoken_dtype = "uint16"\norder = "sequential"\n'
            + '[optimizer]\nkind = "adamw"\nlearning_rate = 4e-4\nbetas = [0.9, 0.95]\neps = 1e-8\nweight_decay = 0.1\n'
            + f'grad_clip_norm = 1.0\n[schedule]\nkind = "constant"\nwarmup_steps = {warmup_steps}\n'
            + f'[train]\n{lines}\n[runtime]\ndevice = "{self.arguments.device}"\npreallocate = false\n'
            + f"deterministic = {json.dumps(deterministic)}\n"
        )
        return path, out

    def tokens(self, model):
        """A shard of tokens with something to learn: each is most often the one before plus one."""
        path = self.folder / f"tokens-{model['vocab_size']}.bin"
        if not path.exists():
            generator = random.Random(1337)
            token, found = 0, []
            for _ in range(1 << 20):
                token = (token + 1) % 256 if generator.random() < 0.8 else generator.randrange(256)
                found.append(token)
            path.write_bytes(struct.pack(f"<{len(found)}H", *found))
        return path

    def weights(self, model):
        return self.folder / f"weights-{model['hidden_size']}.safetensors"

    def train(self, path, out):
        """The steps of a run of lmc."""
        self.run([self.arguments.lmc, "train", path])
        return [event for event in events_of(out) if event["event"] == "train"]

    def pace(self, path, out, steps):
        """The start and the first steps of a run of lmc that is ended then, with no checkpoint, and what it said."""
        with Started([self.arguments.lmc, "train", path], self.folder, self.environment) as started:
            while True:
                found = [event for event in events_of(out) if event["event"] == "train"]
                if len(found) >= steps:
                    break
                if started.process.poll() is not None:
                    raise started.failure()
                if self.left() <= 0:
                    raise Failure("no time left: it was ended")
                time.sleep(0.05)
        return events_of(out)[0], found[:steps], started.words()

    def init(self, model):
        """Writes the weights that all begin with."""
        if not self.weights(model).exists():
            script = [self.arguments.peer, HERE / "peer_torch.py"]
            self.run([*script, "init", self.description(model), self.weights(model)], self.peer_environment)

    def description(self, model):
        """The file that describes a model to the peers."""
        path = self.folder / f"model-{model['hidden_size']}.json"
        if not path.exists():
            path.write_text(json.dumps(model))
        return path

    def peer(self, name, model, steps, micro, accumulate=1, compiled=True, weights="-", warmup_steps=0):
        """The steps of a peer and what it says at the end. It is not waited for beyond that."""
        python, script = {
            "PyTorch": (self.arguments.peer, "peer_torch.py"),
            "JAX": (self.arguments.jax_peer, "peer_jax.py"),
        }[name]
        command = [python, HERE / script, "train", self.description(model), weights, self.tokens(model), "--steps", steps,
                   "--micro-batch", micro, "--accumulate", accumulate, "--precision", self.arguments.precision,
                   "--device", self.arguments.device, "--warmup-steps", warmup_steps]
        if name == "PyTorch" and compiled and self.arguments.device == "cuda":
            command.append("--compile")
        with Started(command, self.folder, self.peer_environment) as started:
            end = threading.Timer(max(self.left(), 1), started.process.kill)
            end.start()
            try:
                lines = []
                for line in started.process.stdout:
                    if line.startswith("{"):
                        lines.append(json.loads(line))
                        if "version" in lines[-1]:
                            return lines[:-1], lines[-1]
            finally:
                end.cancel()
            started.process.wait()
            if self.left() <= 1:
                raise Failure("no time left: it was ended")
            raise Failure(f"{name}, {started.failure()}")

    def peers(self):
        """The names of the peers there are."""
        both = [("PyTorch", self.arguments.peer), ("JAX", self.arguments.jax_peer)]
        return [name for name, python in both if python is not None]

    def compile_ahead(self):
        """Starts to compile what will be timed, all but lmc's first program, whose compilation is timed itself."""
        pool = ThreadPoolExecutor(AHEAD)
        timed = [(name, model, micro) for name, model, micros in self.preset["timed"] for micro in micros]
        # Made before several ask for them.
        for _, model, _ in timed:
            self.tokens(model)
            self.description(model)
        calls = [lambda p=p, m=m, i=i: self.peer(p, m, 1, i) for _, m, i in timed for p in self.peers()]
        for name, model, micro in timed[1:]:
            path, out = self.config(f"ahead-{name}-{micro}", model, steps=1000, micro_batch_size=micro)
            calls.insert(0, lambda path=path, out=out: self.pace(path, out, 1))

        def quietly(call):
            try:
                call()
            except Failure:
                # It will fail again in its turn, and be told then.
                pass

        return pool, [pool.submit(quietly, call) for call in calls]


def events_of(out):
    """What a run of lmc has recorded so far."""
    metrics = out / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def attention(check):
    """Attention on the device, in all its forms, beside float32."""
    output = check.run([check.arguments.lmc, "doctor", "--attention", "--json"])
    report = json.loads(output)
    if report["platform"] != check.arguments.device:
        found = "; ".join(f"{key}: {report[key]}" for key in ("gpu", "cuda_plugin", "cudnn") if key in report)
        raise NoDevice(f"lmc would run on {report['platform']} ({found})")
    for key in ("device", "driver", "cudnn", "flash_attention", "stablehlo_current_version"):
        if key in report:
            check.row("machine", key, report[key])
    for row in report.get("attention", []):
        numbers = " ".join(f"{row[key]:.4f}" for key in ("output", "d_query", "d_key", "d_value"))
        check.row("attention", row["variant"], f"{row['form']}: {numbers}")
        if check.arguments.device == "cuda" and row["form"] != "attention, cuDNN":
            check.problem("attention", row["variant"], "it is not cuDNN's")


def curve(check, warmup_steps):
    """The loss of the same model beside that of each peer, from the same weights, step by step. With a warm-up it must be
    PyTorch's."""
    model, steps = check.preset["curve"], check.preset["curve_steps"]
    check.init(model)
    weights = check.weights(model)
    found = [
        (name, check.peer(name, model, steps, 2, 2, compiled=False, weights=weights, warmup_steps=warmup_steps)[0])
        for name in check.peers()
    ]
    path, out = check.config(f"curve-{warmup_steps}", model, from_weights=True, warmup_steps=warmup_steps, steps=steps,
                             micro_batch_size=2, grad_accum_steps=2)
    ours = check.train(path, out)
    what = f"{steps} steps, warm-up of {warmup_steps}" if warmup_steps else f"{steps} steps, no warm-up"
    tolerance = CURVE_TOLERANCE[check.arguments.precision]
    for name, theirs in found:
        worst, at = farthest(ours, theirs)
        last = f"last loss {ours[-1]['loss']:.4f} and {theirs[-1]['loss']:.4f}"
        result = f"at most {worst:.5f} from {name}, in step {at}; {last}"
        if warmup_steps and name == "PyTorch" and not worst <= tolerance:
            check.problem("loss curve", what, f"{result}, more than {tolerance}")
        else:
            check.row("loss curve", what, result)
    # How far the peers are from each other says what the numbers above mean.
    if len(found) == 2:
        worst, at = farthest(found[0][1], found[1][1])
        check.row("loss curve", what, f"PyTorch and JAX at most {worst:.5f} from each other, in step {at}")


def farthest(ours, theirs):
    """The largest difference of two curves, and its step."""
    return max((abs(a["loss"] - b["loss"]), a["step"]) for a, b in zip(ours, theirs, strict=True))


def speed_of(steps, tokens, start, peak):
    """Rate, time of a step, peak memory and utilization, of the steps after the warm-up."""
    milliseconds = statistics.median(step["step_ms"] for step in steps[WARM_UP:])
    rate = tokens / milliseconds * 1e3
    mfu = rate * start["flops_per_token"] / start["peak_flops"] if start.get("peak_flops") else None
    text = f"{rate:12,.0f} tokens/s {milliseconds:9.2f} ms {peak / 1e9:7.2f} GB"
    return rate, text + (f" {100 * mfu:5.1f} % MFU" if mfu is not None else "")


def compile_time(said):
    """What lmc said of compiling the training step."""
    lines = [line for line in said.splitlines() if line.startswith("training step: ")]
    return lines[0].removeprefix("training step: ").split(" (")[0] if lines else "it did not say"


def speed(check, name, model, micro):
    """The speed of lmc, and of the peers there are, at a micro-batch."""
    what, steps = f"{name}, micro-batch {micro}", check.preset["timed_steps"]
    path, out = check.config(f"speed-{name}-{micro}", model, steps=10 * steps, micro_batch_size=micro)
    start, ours, said = check.pace(path, out, steps)
    tokens = micro * model["seq_len"]
    peak = max(step["peak_memory_bytes"] for step in ours)
    rate, text = speed_of(ours, tokens, start, peak)
    check.row("speed", f"{what}, lmc", text)
    check.row("compile", what, compile_time(said))
    for other in check.peers():
        theirs, end = check.peer(other, model, steps, micro)
        other_rate, text = speed_of(theirs, tokens, start, end["peak_memory_bytes"])
        check.row("speed", f"{what}, {other} {end['version']}", text)
        memory = f", memory {peak / end['peak_memory_bytes']:.2f}" if end["peak_memory_bytes"] else ""
        check.row("speed", f"{what}, lmc by {other}", f"{rate / other_rate:.3f}{memory}")


class Sampler:
    """What nvidia-smi says of the GPU's utilization while something runs: percent of the time in which a kernel ran."""

    def __init__(self, program):
        query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0", "-lms", "100"]
        try:
            self.process = subprocess.Popen([program, *query], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError as error:
            raise Failure(f"{program} does not run: {error}") from None
        self.samples = []
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.samples.append((time.monotonic(), int(line)))

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.thread.join()
        return self.samples


# How long steps run while utilization is sampled, and how long before a first sample its period may begin, in seconds.
IDLE_SECONDS, SAMPLE_PERIOD = 6, 1


def idle(check):
    """How much of a step's time no kernel runs on the GPU."""
    name, model, micros = check.preset["timed"][0]
    path, out = check.config("pace", model, steps=10**6, micro_batch_size=micros[0])
    _, steps, said = check.pace(path, out, check.preset["timed_steps"])
    usual = statistics.median(step["step_ms"] for step in steps[WARM_UP:])
    what = f"{name}, micro-batch {micros[0]}"
    check.row("compile", f"{what}, again", compile_time(said))
    count = WARM_UP + max(20, int(IDLE_SECONDS * 1e3 / usual))
    path, out = check.config("idle", model, steps=10**6, micro_batch_size=micros[0])
    sampler, times = Sampler(check.arguments.nvidia_smi), []

    def watch():
        """When the first steps were done, and the last one."""
        while True:
            done = sum(event["event"] == "train" for event in events_of(out))
            if done >= WARM_UP and (not times or done > times[-1][0]):
                times.append((done, time.monotonic()))
            if done >= count:
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        check.pace(path, out, count)
        watcher.join(timeout=5)
    finally:
        samples = sampler.stop()
    begin, end = times[0][1] + SAMPLE_PERIOD, times[-1][1]
    busy = [percent for at, percent in samples if begin <= at <= end]
    if len(busy) < 10:
        check.row("idle", what, f"left out: {len(busy)} samples of nvidia-smi in {end - begin:.1f} s of steps are too few")
        return
    share = 1 - statistics.mean(busy) / 100
    check.row("idle", what, f"{100 * share:.1f} % of {usual:.2f} ms a step, {len(busy)} samples")


def resume(check):
    """Interrupted runs beside an undisturbed one, deterministic on a GPU: without that, sums there are of no fixed order."""
    # As wide as the curve's, and with as much attention in a layer; fewer layers and words make it quick to save.
    model = dict(check.preset["curve"], num_hidden_layers=2, vocab_size=512)
    deterministic = check.arguments.device == "cuda"
    path, _ = check.config("resume", model, deterministic=deterministic, steps=6, micro_batch_size=2)
    report = json.loads(check.run([check.arguments.lmc, "verify-resume", path, "--steps", "6", "--json"]))
    check.row("resume", "6 steps, bit for bit", "exact" if report["exact"] else "not exact")


def stages(check):
    """All stages: name, what, the seconds below which it is not begun, and what to call. Nothing is timed before what is
    compiled ahead is ready."""
    yield "attention", "all forms", 20, lambda: attention(check)
    pool, ahead = check.compile_ahead()
    if check.arguments.peer is None:
        check.row("loss curve", "beside PyTorch", "left out: no --peer")
    else:
        yield "loss curve", "beside PyTorch", 60, lambda: curve(check, CURVE_WARM_UP)
        yield "loss curve", "no warm-up", 60, lambda: curve(check, 0)
    yield "resume", "6 steps", 30, lambda: resume(check)
    for each in ahead:
        each.result()
    pool.shutdown()
    for name, model, micros in check.preset["timed"]:
        for micro in micros:
            yield "speed", f"{name}, micro-batch {micro}", 45, lambda m=micro, n=name, d=model: speed(check, n, d, m)
    name = check.preset["timed"][0][0]
    if check.arguments.nvidia_smi is None:
        check.row("idle", name, "left out: there is no nvidia-smi to ask, or no GPU")
    else:
        yield "idle", name, 30, lambda: idle(check)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmc", type=Path, default=Path("target/release/lmc"), help="the program [default: %(default)s]")
    parser.add_argument("--peer", type=Path, help="a Python with PyTorch")
    parser.add_argument("--jax-peer", type=Path, help="a Python with JAX; takes --peer, which makes the weights")
    parser.add_argument("--nvidia-smi", help="the program that tells utilization [default: nvidia-smi on a GPU, else none]")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="full")
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--minutes", type=float, default=9, help="the time there is [default: %(default)s]")
    parser.add_argument("--keep", type=Path, help="work in this new folder and keep it")
    arguments = parser.parse_args()
    found = shutil.which(arguments.lmc) or shutil.which(arguments.lmc.resolve())
    if found is None:
        parser.error(f"--lmc {arguments.lmc}: there is no such program; cargo build --release makes it")
    arguments.lmc = Path(found).resolve()
    for option in ("peer", "jax_peer"):
        given = getattr(arguments, option)
        if given is None:
            continue
        found = shutil.which(given)
        if found is None:
            parser.error(f"--{option.replace('_', '-')} {given}: there is no such program")
        # Not resolved: a virtual environment's Python is a link, and knows its packages by its own path.
        setattr(arguments, option, Path(found).absolute())
    if arguments.jax_peer is not None and arguments.peer is None:
        parser.error("--jax-peer takes --peer, which makes the weights")
    if arguments.nvidia_smi is None and arguments.device == "cuda":
        arguments.nvidia_smi = shutil.which("nvidia-smi")
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True)
        return work(arguments, arguments.keep.resolve())
    with tempfile.TemporaryDirectory(prefix="lmc-gpu-") as folder:
        return work(arguments, Path(folder))


def work(arguments, folder):
    check = Check(arguments, folder)
    version = check.run([arguments.lmc, "--version"]).strip()
    print(f"{version}, {arguments.device}, {arguments.preset}, {datetime.date.today()}")
    for stage, what, least, call in stages(check):
        if check.left() < least:
            check.row(stage, what, "left out: no time")
            continue
        try:
            call()
        except Failure as failure:
            check.problem(stage, what, failure)
        except NoDevice as problem:
            check.problem(stage, what, problem)
            break
    print(f"\n{time.monotonic() - check.begin:.0f} s, {len(check.problems)} wrong")
    for problem in check.problems:
        print(f"  {problem}")
    return 1 if check.problems else 0


if __name__ == "__main__":
    sys.exit(main())
