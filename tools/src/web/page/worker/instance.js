/** A module with a memory of its own, whose tensors are read and written by the names of their slots. */
class Instance {
  constructor(module, layout) {
    this.layout = layout;
    this.exports = new WebAssembly.Instance(module).exports;
    this.memory = this.exports.memory.buffer;
    this.views = new Map();
  }

  has(slot) {
    return slot in this.layout.tensors;
  }

  /** A tensor where it lies: what is written there is what the next entry reads. */
  tensor(slot) {
    let view = this.views.get(slot);
    if (view === undefined) {
      const tensor = this.layout.tensors[slot];
      if (tensor === undefined) throw new Error(`the program has no tensor ${slot}`);
      const count = tensor.shape.reduce((product, size) => product * size, 1);
      const Elements = { f32: Float32Array, i32: Int32Array, ui32: Uint32Array }[tensor.dtype];
      // 64 bits as two words of 32, the low one first.
      view = Elements
        ? new Elements(this.memory, tensor.offset, count)
        : new Uint32Array(this.memory, tensor.offset, 2 * count);
      this.views.set(slot, view);
    }
    return view;
  }

  run(entry) {
    this.exports[entry]();
  }
}

/** The bytes of a gzip stream in base64. */
async function unpacked(base64) {
  const packed = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
