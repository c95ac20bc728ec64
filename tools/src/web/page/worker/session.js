/**
 * A training session that a page talks to by messages. It trains in slices and listens between them; what it shows is
 * made after a slice, at most so often that most of the time goes into training.
 */
const SLICE_MS = 12;
/** Between two looks at the model: often enough to seem to move, and at most a quarter of the time. */
const LOOK_MS = 110;
/** The same for who asked for less motion. */
const CALM_LOOK_MS = 1500;
/** Held-out rows of an evaluation, and the share of the time that evaluations may take. */
const HELD_ROWS = 512;
const HELD_SHARE = 0.2;

class Session {
  constructor(post) {
    this.post = post;
    this.rate = 100;
    this.channel = new MessageChannel();
    this.channel.port1.onmessage = () => this.turn();
  }

  async handle(message) {
    try {
      await this[message.type](message);
    } catch (error) {
      this.running = false;
      this.post({ type: "failed", message: error.message });
    }
  }

  /** Begins a run: of a preset, with a text and a seed. */
  async start({ preset, texts, seed, running, rate, prompt, temperature, calm }) {
    const begin = performance.now();
    const number = (this.number = (this.number ?? 0) + 1);
    this.running = false;
    // What was shown before is of another run.
    Object.assign(this, { viewer: undefined, trainer: undefined, seen: undefined });
    this.wanted = { prompt, temperature, snapshot: null, read: null, tensors: [] };
    const module = await WebAssembly.compile(await unpacked(preset.module));
    // Another one may have been begun in the meantime.
    if (number !== this.number) return;
    const { settings } = preset;
    const lines = settings.documents === "lines";
    const tokenizer = tokenizerOf(settings.tokenizer, texts.train, lines);
    if (tokenizer.size > preset.vocab_size)
      throw new Error(`the text has ${tokenizer.size} tokens, the model ${preset.vocab_size}`);
    const words = seedOf(seed);
    const rows = rowsOf(settings, texts, tokenizer, preset.batch.seq_len, words);
    if (!(rows.train.perEpoch > 0)) throw new Error("the text is too short to train on");
    this.preset = preset;
    this.tokenizer = tokenizer;
    this.trainer = new Trainer(new Instance(module, preset.layout), preset, rows, words);
    this.viewer = new Viewer(new Instance(module, preset.layout), preset, rows, tokenizer, words);
    this.module = module;
    Object.assign(this, { rate, running, lookMs: calm ? CALM_LOOK_MS : LOOK_MS });
    this.post({
      type: "ready",
      labels: tokenizer.labels(),
      characters: tokenizer.characters,
      tokenizer: tokenizer.saved(),
      documents: rows.documents,
      rows: rows.train.perEpoch,
      held: rows.held?.perEpoch ?? 0,
      compileMs: performance.now() - begin,
    });
    this.forget();
    this.look();
    this.wake();
    // What was asked for while the module was compiled.
    if (this.seen) this.see({ value: this.seen });
  }

  forget() {
    Object.assign(this, { losses: [], owed: 0, trained: 0, elapsed: 0, evaluated: 0, lookedAt: -Infinity, looking: 0 });
    this.last = performance.now();
    this.evaluate();
    this.report();
  }

  /** How fast: steps a second, or `Infinity`. */
  pace({ rate }) {
    Object.assign(this, { rate, owed: 0 });
  }

  run({ running }) {
    this.running = running;
    this.wake();
  }

  /**
   * What is to be shown: of which snapshot (`null` is the present), after which prompt, at which temperature; which text is
   * read (`null` for the first that is written), and which tensors.
   */
  view({ wanted }) {
    this.wanted = { ...this.wanted, ...wanted };
    this.look();
  }

  /** The step apart, which is made when it is first asked for. */
  lens() {
    const { preset } = this;
    if (this.lensOf !== preset) {
      const opened = async () => new Lens(await WebAssembly.compile(await unpacked(preset.apart.module)), preset);
      Object.assign(this, { lensOf: preset, opened: opened() });
    }
    return this.opened;
  }

  /** Looks into the step: at a value of it, from now on. */
  async see({ value }) {
    this.seen = value;
    if (!value || !this.trainer) return;
    const lens = await this.lens();
    if (this.lensOf === this.preset && this.seen === value) this.showValue(lens);
  }

  showValue(lens) {
    lens.follow(this.trainer);
    const elements = lens.value(this.seen);
    if (elements) this.post({ type: "value", value: this.seen, elements, size: rootMeanSquare(elements) });
    this.ready = lens;
  }

  /** Times these groups of the step. */
  async time({ groups }) {
    const lens = await this.lens();
    if (lens.preset !== this.preset) return;
    lens.follow(this.trainer);
    this.post({ type: "timed", seconds: lens.time(groups) });
  }

  /** The weights that are shown, for a file. */
  weights() {
    const { step, weights } = this.shown();
    const tensors = this.preset.weights.map(({ path, shape }, index) => ({
      path,
      shape,
      elements: weights[index].slice(),
    }));
    this.post({ type: "weights", step, tensors });
  }

  /** Begins anew with these weights, by path. */
  load({ weights }) {
    this.trainer.restart(weights);
    this.forget();
    this.look();
    this.wake();
  }

  wake() {
    if (this.running && !this.awake) {
      this.last = performance.now();
      this.awake = true;
      this.channel.port2.postMessage(null);
    }
  }

  /** A slice of training. */
  turn() {
    this.awake = false;
    const { trainer } = this;
    if (!this.running || !trainer || trainer.finished) return;
    const begin = performance.now();
    // Not more than a second's worth, and not `0 * Infinity`.
    const due = this.owed + ((begin - this.last) * this.rate) / 1000;
    this.owed = this.rate === Infinity ? Infinity : Math.min(due, Math.max(1, this.rate));
    this.elapsed += begin - this.last;
    this.last = begin;
    const until = begin + SLICE_MS;
    while (this.owed >= 1 && !trainer.finished && performance.now() < until) {
      this.losses.push(trainer.advance());
      this.owed -= 1;
    }
    this.trained += performance.now() - begin;
    if (this.evaluated < HELD_SHARE * this.elapsed || trainer.finished) this.evaluate();
    const now = performance.now();
    if (now - this.lookedAt > Math.max(this.lookMs, 3 * this.looking) || trainer.finished) {
      this.report();
      this.look();
    }
    if (trainer.finished) {
      this.running = false;
      this.post({ type: "finished", step: trainer.step, halted: trainer.halted });
      return;
    }
    this.awake = true;
    if (this.owed >= 1) this.channel.port2.postMessage(null);
    else setTimeout(() => this.turn(), Math.min(16, 1000 / this.rate));
  }

  evaluate() {
    const begin = performance.now();
    this.viewer.show(this.trainer.weights());
    const loss = this.viewer.heldOutLoss(HELD_ROWS);
    this.heldOut = loss === undefined ? undefined : { step: this.trainer.step, loss };
    this.evaluated += performance.now() - begin;
  }

  report() {
    const { trainer, losses } = this;
    this.post({
      type: "progress",
      step: trainer.step,
      losses: Float32Array.from(losses),
      heldOut: this.heldOut,
      snapshots: trainer.snapshots.map(({ step }) => step),
      stepMs: trainer.step ? this.trained / trainer.step : 0,
      learningRate: trainer.instance.tensor("learning_rate")[0],
      gradientNorm: trainer.instance.tensor("grad_norm")[0],
    });
    this.losses = [];
    this.heldOut = undefined;
  }

  /** The weights that are to be shown. */
  shown() {
    const { trainer, wanted } = this;
    const snapshot = wanted.snapshot === null ? undefined : trainer.snapshots[wanted.snapshot];
    return snapshot ?? { step: trainer.step, weights: trainer.weights() };
  }

  look() {
    if (!this.viewer) return;
    const begin = performance.now();
    const { step, weights } = this.shown();
    const { prompt, temperature, tensors, read } = this.wanted;
    this.viewer.show(weights);
    const texts = this.viewer.texts(prompt, temperature);
    const look = this.viewer.look(prompt);
    const text = (read ?? texts?.[0].text ?? "").slice(0, this.preset.batch.seq_len - 1);
    this.post({
      type: "view",
      step,
      prompt,
      texts,
      look: look && { logits: look.logits },
      read: { text, ...this.viewer.look(text) },
      tensors: tensors.map((slot) => this.values(slot)),
    });
    if (this.seen && this.ready?.preset === this.preset) this.showValue(this.ready);
    this.lookedAt = performance.now();
    this.looking = this.lookedAt - begin;
  }

  /** The elements of a tensor: of a weight those that are shown, of anything else the training run's. */
  values(slot) {
    const isWeight = slot.startsWith(WEIGHT);
    const { instance } = isWeight ? this.viewer : this.trainer;
    const elements = instance.tensor(slot).slice();
    const { shape } = instance.layout.tensors[slot];
    return { slot, shape, elements, norm: rootMeanSquare(elements) };
  }
}
