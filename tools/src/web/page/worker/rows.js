/**
 * Rows of tokens and labels by number, in the order of the native run (`tools/src/data/rows.rs`): the step is the whole
 * cursor, and the same seed gives the same batches.
 */
const IGNORED = -100;

/** The number of things that a fraction holds out: never all. */
function heldOutCount(fraction, count) {
  return Math.min(Math.floor(count * fraction), Math.max(0, count - 1));
}

/** Documents in rows of their own, padded; a long one takes several. */
class PaddedRows {
  constructor(documents, seqLen, end, seed) {
    Object.assign(this, { documents, seqLen, end, seed });
    this.rows = documents.flatMap((ids, place) => {
      const rows = [];
      for (let from = 0; from <= ids.length; from += seqLen) rows.push([place, from]);
      return rows;
    });
    this.perEpoch = this.rows.length;
  }

  fill(row, tokens, labels, at) {
    const index = shuffled(this, PURPOSE.rows, Math.floor(row / this.perEpoch), row % this.perEpoch);
    const [place, from] = this.rows[index];
    const ids = this.documents[place];
    // Before the first token stands an end, and behind the last one.
    for (let i = 0; i < this.seqLen; i++) {
      const position = from + i;
      tokens[at + i] = position > 0 && position <= ids.length ? ids[position - 1] : this.end;
      labels[at + i] = position < ids.length ? ids[position] : position === ids.length ? this.end : IGNORED;
    }
  }
}

/** Documents end to end in the order of the epoch, cut into rows. */
class PackedRows {
  constructor(documents, seqLen, end, seed) {
    Object.assign(this, { documents, seqLen, end, seed });
    this.pairs = documents.reduce((sum, ids) => sum + ids.length + 1, 0);
    // Of held-out data, which has no seed, nothing is left out.
    this.perEpoch = seed ? Math.floor(this.pairs / seqLen) : Math.ceil(this.pairs / seqLen);
  }

  /** The tokens of an epoch: an end before each document, and one at last. */
  stream(epoch) {
    if (this.epoch !== epoch) {
      const stream = new Int32Array(this.pairs + 1).fill(this.end);
      let at = 1;
      for (let place = 0; place < this.documents.length; place++) {
        const index = shuffled(this, PURPOSE.documents, epoch, place, this.documents.length);
        stream.set(this.documents[index], at);
        at += this.documents[index].length + 1;
      }
      Object.assign(this, { epoch, tokens: stream });
    }
    return this.tokens;
  }

  fill(row, tokens, labels, at) {
    const stream = this.stream(Math.floor(row / this.perEpoch));
    const start = (row % this.perEpoch) * this.seqLen;
    const count = Math.min(this.pairs - start, this.seqLen);
    for (let i = 0; i < this.seqLen; i++) {
      tokens[at + i] = i < count ? stream[start + i] : this.end;
      labels[at + i] = i < count ? stream[start + i + 1] : IGNORED;
    }
  }
}

/** Windows of a running text, whose pairs of token and label are taken as a circle. */
class WindowRows {
  constructor(ids, seqLen, seed) {
    Object.assign(this, { ids, seqLen, seed });
    this.pairs = Math.max(0, ids.length - 1);
    this.perEpoch = seed ? Math.floor(this.pairs / seqLen) : Math.ceil(this.pairs / seqLen);
  }

  fill(row, tokens, labels, at) {
    const epoch = Math.floor(row / this.perEpoch);
    const window = shuffled(this, PURPOSE.rows, epoch, row % this.perEpoch);
    let phase = 0;
    if (this.seed?.shuffles) {
      draw(this.seed.words, PURPOSE.phase, epoch);
      phase = drawnModulo(this.pairs);
    }
    const start = (phase + window * this.seqLen) % this.pairs;
    for (let i = 0; i < this.seqLen; i++) {
      const inside = this.seed || start + i < this.pairs;
      const pair = (start + i) % this.pairs;
      tokens[at + i] = inside ? this.ids[pair] : 0;
      labels[at + i] = inside ? this.ids[pair + 1] : IGNORED;
    }
  }
}

/** What the order puts at a place of an epoch; the order of the epoch that was last asked for is kept. */
function shuffled(rows, purpose, epoch, place, length = rows.perEpoch) {
  if (!rows.seed?.shuffles) return place;
  if (rows.orderOf !== epoch) {
    rows.order = permutation(rows.seed.words, purpose, epoch, length);
    rows.orderOf = epoch;
  }
  return rows.order(place);
}

/**
 * The rows to train on and those that are held out (`undefined` where there are none), with the documents, of a text or of
 * a text and a held-out one, by the settings of `[data]`.
 */
function rowsOf(settings, texts, tokenizer, seqLen, seedWords) {
  const seed = { words: seedWords, shuffles: settings.order === "shuffle" };
  if (settings.documents === "lines") {
    const Rows = settings.packing ? PackedRows : PaddedRows;
    const encode = (text) => linesOf(text).map((line) => tokenizer.encode(line));
    const all = encode(texts.train);
    let [train, held] = [all, []];
    if (texts.val != null) held = encode(texts.val);
    else {
      const count = heldOutCount(settings.val_fraction, all.length);
      const drawn = permutation(seedWords, PURPOSE.split, 0, all.length);
      const isHeld = all.map((_, index) => count > 0 && drawn(index) < count);
      [train, held] = [all.filter((_, index) => !isHeld[index]), all.filter((_, index) => isHeld[index])];
    }
    const known = new Set([texts.train, texts.val ?? ""].flatMap(linesOf));
    return {
      train: new Rows(train, seqLen, tokenizer.end, seed),
      held: held.length ? new Rows(held, seqLen, tokenizer.end) : undefined,
      known,
      documents: all.length,
    };
  }
  const ids = tokenizer.encode(texts.train);
  const count = texts.val == null ? heldOutCount(settings.val_fraction, ids.length) : 0;
  const held = texts.val == null ? ids.slice(ids.length - count) : tokenizer.encode(texts.val);
  return {
    train: new WindowRows(ids.slice(0, ids.length - count), seqLen, seed),
    held: held.length > 1 ? new WindowRows(held, seqLen) : undefined,
    known: new Set(),
    documents: 0,
  };
}
