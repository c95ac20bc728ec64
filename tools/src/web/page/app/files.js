/** Weights as safetensors: the names and the order of lmc's own files, with what `lmc generate` needs in the header. */
function toSafetensors(tensors, metadata) {
  const sorted = [...tensors].sort((a, b) => (a.path < b.path ? -1 : 1));
  const header = { __metadata__: { format: "pt", ...metadata } };
  let offset = 0;
  for (const { path, shape, elements } of sorted) {
    header[path] = { dtype: "F32", shape, data_offsets: [offset, offset + 4 * elements.length] };
    offset += 4 * elements.length;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const padded = Math.ceil(text.length / 8) * 8;
  const bytes = new Uint8Array(8 + padded + offset).fill(32, 8, 8 + padded);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, padded, true);
  bytes.set(text, 8);
  let at = 8 + padded;
  for (const { elements } of sorted)
    for (const element of elements) {
      view.setFloat32(at, element, true);
      at += 4;
    }
  return bytes;
}

/** The weights of a file by path; an error says how it differs from those that are needed. */
function fromSafetensors(buffer, weights) {
  const view = new DataView(buffer);
  const length = buffer.byteLength < 8 ? 0 : view.getUint32(0, true);
  if (length === 0 || view.getUint32(4, true) !== 0 || 8 + length > buffer.byteLength)
    throw new Error("This is no safetensors file.");
  let header;
  try {
    header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  } catch {
    throw new Error("This is no safetensors file: its header is not JSON.");
  }
  const found = {};
  for (const { path, shape } of weights) {
    const tensor = header[path];
    if (!tensor) throw new Error(`The file has no ${path}, which this size needs.`);
    if (tensor.dtype !== "F32" || tensor.shape.join() !== shape.join())
      throw new Error(
        `${path} is ${tensor.dtype} [${tensor.shape}] there, and F32 [${shape}] here: it is of another size.`,
      );
    const [from, to] = tensor.data_offsets.map((offset) => 8 + length + offset);
    const count = shape.reduce((product, size) => product * size, 1);
    if (to - from !== 4 * count || to > buffer.byteLength) throw new Error("The file is cut short.");
    found[path] = Float32Array.from({ length: count }, (_, at) => view.getFloat32(from + 4 * at, true));
  }
  return { weights: found, metadata: header.__metadata__ ?? {} };
}

function save(bytes, name) {
  const url = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
