/**
 * The training step with its groups apart and a place in memory for every value: a copy of the run does a step there, and
 * can be looked into and timed without disturbing it.
 */
class Lens {
  constructor(module, preset) {
    this.instance = new Instance(module, preset.apart.layout);
    this.preset = preset;
  }

  /** Does the step that the run did last, or one like it. */
  follow(trainer) {
    for (const slot in this.preset.apart.layout.tensors) this.instance.tensor(slot).set(trainer.instance.tensor(slot));
    this.instance.run("step");
  }

  /** The elements of a value, `{ shape, dtype, offset }`; `undefined` where they are no numbers that can be shown. */
  value({ shape, dtype, offset }) {
    const Elements = { f32: Float32Array, i32: Int32Array, i1: Uint8Array }[dtype];
    const count = shape.reduce((product, size) => product * size, 1);
    return Elements && Float32Array.from(new Elements(this.instance.memory, offset, count));
  }

  /** Seconds that each of these groups takes, the least of a few rounds; a group's clock is read after many runs. */
  time(groups) {
    const begin = performance.now();
    const least = groups.map(() => Infinity);
    const runs = groups.map(() => 1);
    for (let round = 0; round < 5 && performance.now() - begin < 1500; round++) {
      groups.forEach((name, index) => {
        const run = this.instance.exports[name];
        const start = performance.now();
        for (let i = 0; i < runs[index]; i++) run();
        const spent = performance.now() - start;
        least[index] = Math.min(least[index], spent / runs[index]);
        // Clocks of browsers tick every tenth of a millisecond.
        if (spent < 1) runs[index] = Math.min(4096, Math.ceil(runs[index] * Math.min(16, 1.5 / Math.max(spent, 0.05))));
      });
      // What was measured with too few runs does not count.
      if (round < 3 && performance.now() - begin < 700) least.fill(Infinity);
    }
    return least.map((ms) => ms / 1000);
  }
}
