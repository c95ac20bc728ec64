/** Text to tokens: by characters or by bytes, in documents or as a running text, as `tools/src/tokenizer` does. */

/** The documents of a text whose lines are documents. */
function linesOf(text) {
  return text
    .split("\n")
    .map((line) => (line.endsWith("\r") ? line.slice(0, -1) : line))
    .filter((line) => line !== "");
}

/** A token a character, or a byte. `characters` are sorted by code point; a document end follows them. */
class Tokenizer {
  constructor(kind, characters, hasEnd) {
    this.kind = kind;
    this.characters = characters;
    this.ids = new Map(characters.map((character, id) => [character, id]));
    this.hasEnd = hasEnd;
    this.end = kind === "byte" ? 256 : hasEnd ? characters.length : -1;
    this.size = kind === "byte" ? 257 : characters.length + (hasEnd ? 1 : 0);
  }

  /** The ids of a text, or `undefined` with a character that is not known. */
  encode(text) {
    if (this.kind === "byte") return Array.from(new TextEncoder().encode(text));
    const ids = Array.from(text, (character) => this.ids.get(character));
    return ids.includes(undefined) ? undefined : ids;
  }

  decode(ids) {
    if (this.kind === "byte") return new TextDecoder().decode(Uint8Array.from(ids.filter((id) => id < 256)));
    return ids.map((id) => this.characters[id] ?? "").join("");
  }

  /** What generation begins with, as the native `encode_prompt`. */
  encodePrompt(prompt) {
    const ids = this.encode(prompt);
    if (ids === undefined) return undefined;
    if (this.end >= 0) return [this.end, ...ids];
    return ids.length ? ids : (this.encode("\n") ?? [0]);
  }

  /** How each token is shown. */
  labels() {
    if (this.kind === "byte")
      return Array.from({ length: 257 }, (_, id) =>
        id === 256 ? "∎" : id > 32 && id < 127 ? String.fromCharCode(id) : id.toString(16).padStart(2, "0"),
      );
    const shown = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" };
    return [...this.characters.map((character) => shown[character] ?? character), ...(this.hasEnd ? ["∎"] : [])];
  }

  /** The form in which lmc saves it beside a model. */
  saved() {
    const form =
      this.kind === "byte"
        ? { type: "byte" }
        : { type: "char", characters: this.characters.join(""), end_of_document: this.hasEnd };
    return JSON.stringify(form) + "\n";
  }
}

/** The tokenizer of a text, with the whole of it: `kind`, and whether its lines are documents. */
function tokenizerOf(kind, text, lines) {
  if (kind === "byte") return new Tokenizer("byte", [], true);
  const characters = new Set(text);
  if (lines) for (const lineBreak of "\n\r") characters.delete(lineBreak);
  const sorted = [...characters].sort((a, b) => a.codePointAt(0) - b.codePointAt(0));
  return new Tokenizer("char", sorted, lines);
}

/**
 * A text of one's own, made to fit a vocabulary that was decided at export: if it has too many characters, it is put in
 * lower case, then without accents, and then what has rarer characters still is left out. Tells what was done.
 */
function fitted(text, kind, lines, vocabSize) {
  const notes = [];
  text = text.normalize("NFC").replaceAll("\r\n", "\n");
  if (lines)
    text = linesOf(text.replaceAll("\r", "\n"))
      .map((line) => line.trim())
      .filter(Boolean)
      .join("\n");
  const room = vocabSize - (lines ? 1 : 0);
  const count = () => tokenizerOf(kind, text, lines).characters.length;
  if (kind === "byte" || count() <= room) return { text, notes };
  text = text.toLowerCase();
  notes.push("in lower case");
  if (count() <= room) return { text, notes };
  text = text.normalize("NFD").replace(/\p{M}/gu, "");
  notes.push("without accents");
  if (count() <= room) return { text, notes };
  const uses = new Map();
  for (const character of text) if (!lines || character !== "\n") uses.set(character, (uses.get(character) ?? 0) + 1);
  const kept = new Set(
    [...uses]
      .sort((a, b) => b[1] - a[1])
      .slice(0, room)
      .map(([character]) => character),
  );
  if (lines) {
    const all = linesOf(text);
    const whole = all.filter((line) => Array.from(line).every((character) => kept.has(character)));
    notes.push(`without ${all.length - whole.length} lines that have other characters than the ${room} most frequent`);
    text = whole.join("\n");
  } else {
    text = Array.from(text)
      .filter((character) => kept.has(character))
      .join("");
    notes.push(`without all but the ${room} most frequent characters`);
  }
  return { text, notes };
}
