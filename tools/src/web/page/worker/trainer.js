/** A run: the state of the training step in its module's memory, the data, and states of the past. */
const WEIGHT = "params/";
const SLOT = "optimizer/";

class Trainer {
  constructor(instance, preset, rows, seed) {
    Object.assign(this, { instance, preset, rows, seed });
    const { micro_batches, micro_batch_size, seq_len } = preset.batch;
    this.rowsEach = micro_batches * micro_batch_size;
    this.seqLen = seq_len;
    this.tokens = instance.tensor("tokens");
    this.labels = instance.tensor("labels");
    this.loss = instance.tensor("loss");
    this.restart();
  }

  /** The state before the first step; `weights`, arrays by path, in place of random ones. */
  restart(weights) {
    const { instance, preset } = this;
    for (const weight of preset.weights) {
      const elements = instance.tensor(WEIGHT + weight.path);
      if (weights) elements.set(weights[weight.path]);
      else fillInitial(weight, elements, this.seed);
    }
    for (const slot of preset.slots) {
      const elements = instance.tensor(SLOT + slot.name);
      if (slot.start === "weight") elements.set(instance.tensor(WEIGHT + preset.weights[slot.weight].path));
      else elements.fill(0);
    }
    instance.tensor("step")[0] = 0;
    instance.tensor("halted")[0] = 0;
    this.step = 0;
    this.snapshots = [];
    this.snapshotAt = 0;
    this.remember();
  }

  /** Does a step and returns its loss: of the weights before it, on a batch they have not seen. */
  advance() {
    const first = this.step * this.rowsEach;
    for (let row = 0; row < this.rowsEach; row++)
      this.rows.train.fill(first + row, this.tokens, this.labels, row * this.seqLen);
    this.instance.run("step");
    this.step += 1;
    if (this.step >= this.snapshotAt) this.remember();
    return this.loss[0];
  }

  /** Whether a step was not finite: then nothing changes any more. */
  get halted() {
    return this.instance.tensor("halted")[0] !== 0;
  }

  get finished() {
    return this.step >= this.preset.steps || this.halted;
  }

  /** What samples are drawn with: the averaged weights where an average is kept. */
  weights() {
    const slot = (path) => (this.preset.averaged ? SLOT + "ema." + path : WEIGHT + path);
    return this.preset.weights.map(({ path }) => this.instance.tensor(slot(path)));
  }

  /** Keeps the weights, densely at first and then in steps of an eighth. */
  remember() {
    this.snapshots.push({ step: this.step, weights: this.weights().map((elements) => elements.slice()) });
    this.snapshotAt = Math.min(this.step < 8 ? this.step + 1 : Math.ceil(this.step * 1.125), this.preset.steps);
    if (this.step >= this.preset.steps) this.snapshotAt = Infinity;
  }
}
