"use strict";
// The data of the page: ops of every stage as columns, and what is derived from them when it is first asked for.
const DATA = JSON.parse(document.getElementById("data").textContent);
const STRINGS = DATA.strings;
const PASSES = DATA.passes;
const TITLES = {
  graph: "Loss",
  grad: "Gradient",
  step: "Training step",
  stablehlo: "StableHLO",
  hlo: "HLO",
  optimized: "Optimized",
};
// Ops that say how values are laid out and nothing else: a diagram goes through them.
const PLUMBING = new Set(["constant", "broadcast_in_dim", "broadcast", "reshape", "iota", "bitcast"]);

/** A number of three digits with a prefix: 1.23k. */
function short(number, base = 1000) {
  if (!number) return "0";
  const prefixes = base === 1024 ? [" B", " KiB", " MiB", " GiB", " TiB", " PiB"] : ["", "k", "M", "G", "T", "P", "E"];
  let index = 0;
  let value = Math.abs(number);
  while (value >= base - 0.5 && index + 1 < prefixes.length) {
    value /= base;
    index += 1;
  }
  const digits = index === 0 && Number.isInteger(value) ? 0 : value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return (number < 0 ? "−" : "") + value.toFixed(digits) + prefixes[index];
}
/** Operations with a prefix: 1.23 GFLOP. */
const flop = (number) => short(number).replace(/[a-zA-Z]*$/, (prefix) => " " + prefix + "FLOP");
const counted = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
const bytes = (number) => short(number, 1024);
const percent = (part, whole) => (whole ? ((100 * part) / whole).toFixed(1) + " %" : "–");

/** An element with attributes and content; properties that begin with "on" are listeners. */
function make(tag, properties = {}, ...content) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key === "cls" ? "class" : key, value === true ? "" : value);
  }
  element.append(...content.flat().filter((part) => part !== null && part !== undefined));
  return element;
}
function makeSvg(tag, properties = {}, ...content) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(properties)) element.setAttribute(key, value);
  element.append(...content);
  return element;
}

/** A layer's path in steps: the number of a block stays with its name. */
function steps(layer) {
  const found = [];
  for (const part of layer.split(".")) {
    if (part === "") continue;
    if (/^\d+$/.test(part) && found.length > 0) found[found.length - 1] += "." + part;
    else found.push(part);
  }
  return found;
}

/** A layer: what is in it and below, by pass. */
class Scope {
  constructor(name, path, parent) {
    Object.assign(this, { name, path, parent, children: [], byName: new Map(), own: [] });
    this.depth = parent ? parent.depth + 1 : 0;
    this.flops = [0, 0, 0, 0];
    this.bytes = [0, 0, 0, 0];
    this.ops = [0, 0, 0, 0];
  }
  child(name) {
    let child = this.byName.get(name);
    if (!child) {
      child = new Scope(name, this.path ? this.path + "." + name : name, this);
      this.byName.set(name, child);
      this.children.push(child);
    }
    return child;
  }
  /** The op indexes here and below, in the order of the program. */
  all() {
    if (!this.below) {
      this.below = this.children
        .reduce((found, child) => found.concat(child.all()), this.own.slice())
        .sort((a, b) => a - b);
    }
    return this.below;
  }
  sum(metric) {
    return this[metric].reduce((a, b) => a + b, 0);
  }
}

/** A stage of the program. */
class Stage {
  constructor(raw) {
    Object.assign(this, raw);
    this.count = raw.op.length;
    this.title = TITLES[raw.id] || raw.id;
    this.build();
  }
  build() {
    this.root = new Scope("whole program", "", null);
    this.scopes = new Map([["", this.root]]);
    this.scopeOf = new Array(this.count);
    const byLayer = new Map();
    for (let op = 0; op < this.count; op += 1) {
      let scope = byLayer.get(this.layer[op]);
      if (!scope) {
        scope = this.root;
        for (const name of steps(STRINGS[this.layer[op]])) {
          scope = scope.child(name);
          this.scopes.set(scope.path, scope);
        }
        byLayer.set(this.layer[op], scope);
      }
      scope.own.push(op);
      this.scopeOf[op] = scope;
      const pass = this.pass[op];
      for (let at = scope; at; at = at.parent) {
        at.flops[pass] += this.flops[op] * this.times[op];
        at.bytes[pass] += this.bytes[op] * this.times[op];
        at.ops[pass] += 1;
      }
    }
  }
  /** The outermost fusion that an op is inside of. */
  fusionOf(op) {
    let found = null;
    for (let at = this.parent[op]; at >= 0 && this.text1("op", at) === "fusion"; at = this.parent[at]) found = at;
    return found;
  }
  get users() {
    if (!this.usersOf) {
      this.usersOf = Array.from({ length: this.count }, () => []);
      this.operands.forEach((operands, op) => operands.forEach((operand) => this.usersOf[operand].push(op)));
    }
    return this.usersOf;
  }
  /** What search looks at. */
  get haystack() {
    if (!this.hay) {
      this.hay = Array.from({ length: this.count }, (_, op) =>
        [this.name, this.op, this.layer, this.type]
          .map((column) => STRINGS[column[op]])
          .concat(this.place(op), PASSES[this.pass[op]])
          .join(" ")
          .toLowerCase(),
      );
    }
    return this.hay;
  }
  /** Ops by layer and line, which the same op has in every stage. */
  get byLine() {
    if (!this.lines) {
      this.lines = new Map();
      for (let op = 0; op < this.count; op += 1) {
        const key = this.key(op);
        if (!this.lines.has(key)) this.lines.set(key, []);
        this.lines.get(key).push(op);
      }
    }
    return this.lines;
  }
  key(op) {
    return STRINGS[this.layer[op]] + "|" + STRINGS[this.file[op]] + ":" + this.line[op];
  }
  place(op, parts = 2) {
    const file = STRINGS[this.file[op]];
    return file ? file.split("/").slice(-parts).join("/") + ":" + this.line[op] : "";
  }
  text1(column, op) {
    return STRINGS[this[column][op]];
  }
  find(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    this.haystack.forEach((text, op) => {
      if (words.every((word) => text.includes(word))) found.push(op);
    });
    return found;
  }
}

const RAW = new Map(DATA.stages.map((raw) => [raw.id, raw]));
const BUILT = new Map();
function stage(id) {
  if (!BUILT.has(id)) BUILT.set(id, new Stage(RAW.get(id)));
  return BUILT.get(id);
}

/** What is shown. Every change of it draws what depends on it. */
const state = {
  view: "program",
  stage: RAW.has("step") ? "step" : DATA.stages[0].id,
  scope: "",
  op: null,
  query: "",
  metric: "flops",
  open: new Set([""]),
  sort: "order",
  zoom: 0,
};
