/** What a model has to say: the same module with a memory of its own, so that looking never disturbs training. */
class Viewer {
  constructor(instance, preset, rows, tokenizer, seed) {
    Object.assign(this, { instance, preset, rows, tokenizer, seed });
  }

  /** Takes weights over, in the order of the preset's. */
  show(weights) {
    this.preset.weights.forEach(({ path }, index) => this.instance.tensor(WEIGHT + path).set(weights[index]));
  }

  /** The mean loss of the held-out rows, at most `limit` of them; `undefined` where nothing is held out. */
  heldOutLoss(limit) {
    if (!this.rows.held) return undefined;
    const { instance } = this;
    const tokens = instance.tensor("evaluate/tokens");
    const labels = instance.tensor("evaluate/labels");
    const seqLen = this.preset.batch.seq_len;
    const end = Math.min(limit, this.rows.held.perEpoch);
    let [sum, count] = [0, 0];
    for (let row = 0; row < end;) {
      labels.fill(IGNORED);
      for (let at = 0; at < tokens.length && row < end; at += seqLen, row++)
        this.rows.held.fill(row, tokens, labels, at);
      instance.run("evaluate");
      sum += instance.tensor("evaluate/loss_sum")[0];
      count += instance.tensor("evaluate/num_tokens")[0];
    }
    return sum / count;
  }

  /** A prompt's ids in a window of `context`, and how many are filled; `undefined` with an unknown character. */
  window(prompt, context) {
    const ids = this.tokenizer.encodePrompt(prompt);
    if (ids === undefined) return undefined;
    const seen = ids.slice(-context);
    return { seen, ids: Int32Array.from({ length: context }, (_, at) => seen[at] ?? 0) };
  }

  /** Texts that go on from a prompt, drawn as the native `lmc generate` draws them. */
  texts(prompt, temperature) {
    const { instance, preset } = this;
    const { count, max_new_tokens, top_k, top_p } = preset.sample;
    const context = preset.batch.seq_len;
    const window = this.window(prompt, context);
    if (!window) return undefined;
    const tokens = instance.tensor("generate/tokens");
    for (let row = 0; row < count; row++) tokens.set(window.ids, row * context);
    instance.tensor("generate/length")[0] = window.seen.length;
    instance.tensor("generate/key").set([this.seed[1], this.seed[0], 0, 0]);
    instance.tensor("generate/temperature")[0] = temperature;
    instance.tensor("generate/top_k")[0] = top_k;
    instance.tensor("generate/top_p")[0] = top_p;
    instance.run("generate");
    const drawn = instance.tensor("generate/new_tokens");
    return Array.from({ length: count }, (_, row) => {
      const ids = Array.from(drawn.subarray(row * max_new_tokens, (row + 1) * max_new_tokens));
      const end = ids.indexOf(this.tokenizer.end);
      const text = prompt + this.tokenizer.decode(end < 0 ? ids : ids.slice(0, end));
      return { text, ended: end >= 0, known: this.rows.known.has(text) };
    });
  }

  /** The logits after a prompt, and for every layer and head whom each of its tokens looks at. */
  look(prompt) {
    const { instance, preset } = this;
    const context = preset.batch.seq_len;
    const window = this.window(prompt, context);
    if (!window) return undefined;
    instance.tensor("look/tokens").set(window.ids);
    instance.run("look");
    const { seen } = window;
    const logits = instance.tensor("look/logits");
    const size = preset.vocab_size;
    const from = (seen.length - 1) * size;
    const attention = preset.attention.map(({ slot, scope }) => {
      const [, heads] = instance.layout.tensors[slot].shape;
      return { scope, heads, context, weights: instance.tensor(slot).slice() };
    });
    return { ids: seen, logits: logits.slice(from, from + this.tokenizer.size), attention };
  }
}

/** The root of the mean square of elements. */
function rootMeanSquare(elements) {
  let sum = 0;
  for (const element of elements) sum += element * element;
  return Math.sqrt(sum / Math.max(1, elements.length));
}
