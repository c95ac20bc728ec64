"""Records what JAX's profiler writes and what JAX reads of it, for `tools/src/profile/xplane.rs` to compare with.

    python record_profile.py           # writes profile_cpu.xplane.pb, profile_fields.xplane.pb and profile.json beside it

Needs jax on a CPU. `profile_cpu.xplane.pb` is a recording of a jitted function, of which the first events of each line are
kept; what they are named after is kept with them. `profile_fields.xplane.pb` is a message with every field, which jaxlib
encodes from the text form of protocol buffers (`FIELDS`, below). `profile.json` holds what `jax.profiler.ProfileData` reads
of the two: planes, lines and events with their times in nanoseconds, and named values.
"""

import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
from jax.profiler import ProfileData

HERE = pathlib.Path(__file__).parent
EVENTS = 12  # of each line

FIELDS = r"""
planes {
  id: 3
  name: "/device:GPU:0"
  lines {
    id: 7
    name: "Stream #7(Kernel)"
    timestamp_ns: 1767225600000000001
    duration_ps: 9000000
    display_id: 70
    display_name: "the seventh"
    events {
      metadata_id: 1
      offset_ps: 1500
      duration_ps: 2000250
      stats { metadata_id: 1 ref_value: 20 }
      stats { metadata_id: 2 str_value: "train_step" }
      stats { metadata_id: 3 uint64_value: 18446744073709551615 }
      stats { metadata_id: 4 int64_value: -5 }
      stats { metadata_id: 5 double_value: 0.1 }
      stats { metadata_id: 6 bytes_value: "raw\000\001" }
    }
    events { metadata_id: 2 num_occurrences: 12 duration_ps: 34 }
    events { metadata_id: 2 offset_ps: 0 }
  }
  event_metadata { key: 1 value {
    id: 1 name: "loop_add_fusion_2" display_name: "add" metadata: "\001\002" child_id: 2 child_id: 300
    stats { metadata_id: 7 int64_value: 64 }
  } }
  event_metadata { key: 2 value { id: 2 name: "MemcpyD2D" } }
  stat_metadata { key: 1 value { id: 1 name: "hlo_op" description: "the instruction" } }
  stat_metadata { key: 2 value { id: 2 name: "hlo_module" } }
  stat_metadata { key: 3 value { id: 3 name: "program_id" } }
  stat_metadata { key: 4 value { id: 4 name: "correlation_id" } }
  stat_metadata { key: 5 value { id: 5 name: "theoretical_occupancy_pct" } }
  stat_metadata { key: 6 value { id: 6 name: "raw" } }
  stat_metadata { key: 7 value { id: 7 name: "registers" } }
  stat_metadata { key: 20 value { id: 20 name: "loop_add_fusion.2" } }
  stats { metadata_id: 5 double_value: 0.25 }
}
errors: "an error"
warnings: "a warning"
warnings: "another"
hostnames: "here"
"""


def record():
    @jax.jit
    def step(x, w):
        return jnp.tanh(x @ w), (w * 2).sum()

    x, w = jnp.ones((64, 64)), jnp.ones((64, 64))
    jax.block_until_ready(step(x, w))
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    options.enable_hlo_proto = False
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(3):
                jax.block_until_ready(step(x, w))
        (path,) = pathlib.Path(folder).glob("**/*.xplane.pb")
        return path.read_bytes()


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def encoded(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def fields(data):
    """The fields of a message: number, kind, value, and all of it as it stands there."""
    at = 0
    while at < len(data):
        start = at
        key, at = varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        elif kind == 0:
            value, at = varint(data, at)
        else:
            size = {1: 8, 5: 4}[kind]
            value, at = data[at : at + size], at + size
        yield number, kind, value, data[start:at]


def shortened(space):
    """The message with the first events of each line, and the names that these have."""

    def field(number, value):
        return encoded(number << 3 | 2) + encoded(len(value)) + value

    out = b""
    for number, _, plane, whole in fields(space):
        if number != 1:
            out += whole
            continue
        parts = list(fields(plane))
        lines, events, stats = [], set(), set()

        def take_stats(message, place):
            for number, _, stat, _ in fields(message):
                if number == place:
                    for key, _, value, _ in fields(stat):
                        if key in (1, 7):  # the name, and a text that is a name
                            stats.add(value)

        for line in [value for number, _, value, _ in parts if number == 3]:
            kept, count = b"", 0
            for number, _, event, part in fields(line):
                if number == 4:
                    count += 1
                    if count > EVENTS:
                        continue
                    events.update(value for key, _, value, _ in fields(event) if key == 1)
                    take_stats(event, 4)
                kept += part
            lines.append(field(3, kept))
        entries = {4: events, 5: stats}
        take_stats(plane, 6)
        kept = b""
        for place in (4, 5):
            for number, _, entry, part in parts:
                if number == place:
                    key = dict((number, value) for number, _, value, _ in fields(entry))
                    if key.get(1, 0) in entries[place]:
                        kept += part
                        if place == 4:
                            take_stats(key[2], 5)
        rest = b"".join(part for number, _, _, part in parts if number not in (3, 4, 5))
        out += field(1, rest + b"".join(lines) + kept)
    return out


def read(data):
    """What JAX reads: times as floats, lengths in whole nanoseconds, bytes as text."""

    def event(event):
        return {
            "name": event.name,
            "start_ns": event.start_ns,
            "duration_ns": event.duration_ns,
            "stats": [[name, value] for name, value in event.stats],
        }

    def line(line):
        return {"name": line.name, "events": [event(e) for e in line.events]}

    planes = ProfileData.from_serialized_xspace(data).planes
    return [{"name": plane.name, "lines": [line(l) for l in plane.lines]} for plane in planes]


def main():
    cpu = shortened(record())
    made = ProfileData.text_proto_to_serialized_xspace(FIELDS)
    (HERE / "profile_cpu.xplane.pb").write_bytes(cpu)
    (HERE / "profile_fields.xplane.pb").write_bytes(made)
    out = {"jax": jax.__version__, "cpu": read(cpu), "fields": read(made)}
    (HERE / "profile.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
