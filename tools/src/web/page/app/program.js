/** The training step: its layers as boxes in boxes, and of the chosen one its lines, its groups and its tensors. */
const PASSES = ["forward", "recompute", "backward", "optimizer"];
const OPTIMIZER = 3;

/**
 * The layers of a program as a tree, in the order in which the model goes through them; `amountOf` a group is what shares are
 * of.
 */
function layersOf(program, weights, amountOf) {
  const root = {
    path: "",
    name: "model",
    children: [],
    groups: [],
    ops: [],
    weights: [],
    amounts: [0, 0, 0, 0],
    elements: 0,
  };
  const all = new Map([["", root]]);
  const layer = (path) => {
    if (!all.has(path)) {
      // `h.0` is one layer, and not the first of `h`.
      const [, above, name] = path.match(/^(?:(.*?)\.)?([^.]+(?:\.\d+)?)$/);
      const parent = layer(above ?? "");
      const made = {
        path,
        name,
        parent,
        children: [],
        groups: [],
        ops: [],
        weights: [],
        amounts: [0, 0, 0, 0],
        elements: 0,
      };
      parent.children.push(made);
      all.set(path, made);
    }
    return all.get(path);
  };
  const upwards = (from, change) => {
    for (let at = from; at; at = at.parent) change(at);
  };
  for (const op of program.ops) if (op.pass !== OPTIMIZER) layer(op.layer);
  // What the forward pass does not show, such as a table of which a part is taken, comes after what was declared before it.
  let before;
  for (const { path } of weights) {
    const isNew = !all.has(path.slice(0, path.lastIndexOf(".")));
    const at = layer(path.slice(0, path.lastIndexOf(".")));
    if (isNew && before?.parent === at.parent) {
      const { children } = at.parent;
      children.splice(children.indexOf(before) + 1, 0, children.pop());
    }
    before = at;
  }
  for (const op of program.ops) layer(op.layer).ops.push(op);
  program.groups.forEach((group, index) => {
    const at = layer(group.layer);
    at.groups.push({ ...group, amount: amountOf(group, index) });
    upwards(at, (each) => (each.amounts[group.pass] += amountOf(group, index)));
  });
  for (const weight of weights) {
    const at = layer(weight.path.slice(0, weight.path.lastIndexOf(".")));
    at.weights.push(weight);
    const count = weight.shape.reduce((product, size) => product * size, 1);
    upwards(at, (each) => (each.elements += count));
  }
  return { root, all };
}

class Program {
  /** `watch` asks for the elements of tensors from now on, `see` for those of a value of the step. */
  constructor(boxes, details, { watch, see }) {
    Object.assign(this, { boxes, details, watch, seeValue: see, chosen: null, pass: 0, op: null });
    withArrows(boxes, ".head", (head) => head.click());
    withArrows(details, "#ops button", (line) => line.click());
  }

  restart(program, preset, seconds) {
    Object.assign(this, { program, preset, op: null, seconds });
    if (!seconds) byId("time-note").textContent = "Shares are estimates.";
    // Until they are timed, by the bytes that they move, which is what small operations take time for.
    const times = (group) => (group.depth === 0 ? 1 : 0);
    this.tree = layersOf(program, preset.weights, (group, index) =>
      seconds ? (seconds[index] ?? 0) : times(group) * (group.flops + 4 * group.bytes),
    );
    const total = this.tree.root.amounts.reduce((a, b) => a + b, 0);
    const shown = this.tree.root.children.filter((layer) => layer.ops.length || layer.children.length);
    const widest = Math.max(
      ...[...this.tree.all.values()].filter((layer) => !layer.children.length).map((layer) => this.sum(layer)),
    );
    this.boxes.replaceChildren(
      ...[...shown, this.own()].filter(Boolean).map((layer) => this.box(layer, total, widest, 1)),
    );
    const attention = [...this.tree.all.values()].find((layer) => /attn/.test(layer.name));
    this.choose(this.tree.all.get(this.chosen?.path) ?? attention ?? shown[0]);
  }

  /** The groups that the step itself runs. */
  groupNames() {
    this.timed = this.program.groups.flatMap((group, index) => (group.depth === 0 ? [index] : []));
    return this.timed.map((index) => this.program.groups[index].name);
  }

  showTimes(seconds) {
    const all = [];
    this.timed.forEach((index, at) => (all[index] = seconds[at]));
    byId("time-note").textContent =
      `Shares are of the time, ${duration(seconds.reduce((a, b) => a + b, 0))} a step, measured group by group.`;
    this.restart(this.program, this.preset, all);
  }

  /** What belongs to no layer, as one. */
  own() {
    const { root } = this.tree;
    if (!root.ops.length) return null;
    const own = {
      ...root,
      path: "",
      name: "loss, clipping, schedule",
      children: [],
      elements: 0,
      amounts: [0, 0, 0, 0],
    };
    for (const group of root.groups) own.amounts[group.pass] += group.amount;
    this.tree.all.set("", own);
    return own;
  }

  sum(layer) {
    return layer.amounts.reduce((a, b) => a + b, 0);
  }

  box(layer, total, widest, level) {
    const sum = this.sum(layer);
    const share = make("span", { class: "share", "aria-hidden": true });
    layer.amounts.forEach((amount, pass) => {
      if (amount)
        share.append(
          make("i", { class: "p" + pass, style: `width:${Math.max(3, 100 * Math.min(1, amount / widest))}%` }),
        );
    });
    const words = layer.amounts
      .map((amount, pass) => (amount ? `${PASSES[pass]} ${percent(amount / total)}` : null))
      .filter(Boolean);
    const head = make(
      "button",
      {
        type: "button",
        class: "head",
        role: "treeitem",
        tabindex: -1,
        "aria-level": level,
        "aria-selected": "false",
        "aria-expanded": layer.children.length ? "true" : undefined,
        title: `${layer.path || layer.name}: ${words.join(", ")}`,
        onclick: () => this.choose(layer),
      },
      make("span", { class: "name" }, layer.name),
      layer.children.length ? make("span") : share,
      make("span", { class: "amount" }, percent(sum / total)),
    );
    layer.head = head;
    return make(
      "div",
      { class: "box", role: "none" },
      head,
      layer.children.map((child) => this.box(child, total, widest, level + 1)),
    );
  }

  choose(layer) {
    for (const head of this.boxes.querySelectorAll(".head")) {
      const isChosen = head === layer.head;
      head.setAttribute("aria-selected", String(isChosen));
      head.tabIndex = isChosen ? 0 : -1;
    }
    const below = (each, take) => [...take(each), ...each.children.flatMap((child) => below(child, take))];
    this.chosen = layer;
    this.ops = below(layer, (each) => each.ops);
    this.passes = PASSES.map((_, pass) => this.ops.some((op) => op.pass === pass));
    if (!this.passes[this.pass]) this.pass = this.passes.indexOf(true);
    this.op = null;
    this.weight = below(layer, (each) => each.weights)[0];
    this.draw();
  }

  /** The tensors of the chosen weight: itself, and what the optimizer keeps of it. */
  slots() {
    if (!this.weight) return [];
    const kept = this.preset.slots.filter((slot) => slot.name.endsWith("." + this.weight.path));
    return [
      { slot: WEIGHT_SLOT + this.weight.path, name: "weights" },
      ...kept.map(({ name }) => {
        const kind = name.slice(0, name.length - this.weight.path.length - 1);
        return { slot: OPTIMIZER_SLOT + name, name: MOMENTS[kind] ?? kind };
      }),
    ];
  }

  draw() {
    const { chosen, details, pass } = this;
    const tab = (index) =>
      make(
        "button",
        { type: "button", role: "tab", "aria-selected": String(index === pass), onclick: () => this.turn(index) },
        PASSES[index],
      );
    const lines = this.ops.filter((op) => op.pass === pass);
    const list = make("div", { id: "ops", class: "code", role: "group", "aria-label": "Lines of the program" });
    list.append(
      ...lines.map((op, index) =>
        make(
          "button",
          {
            type: "button",
            class: op.value ? "code" : "code soft",
            tabindex: index ? -1 : 0,
            "aria-pressed": String(op === this.op),
            title: op.text,
            onclick: (event) => this.explain(op, event.currentTarget),
          },
          op.text,
        ),
      ),
    );
    this.about = make("dl");
    this.valueFigure = make("div", { class: "tensors" });
    this.figures = make("div", { class: "tensors" });
    const weights = [];
    const collect = (layer) => (weights.push(...layer.weights), layer.children.forEach(collect));
    collect(chosen);
    const pick =
      weights.length > 1
        ? make(
            "select",
            {
              "aria-label": "Which weights",
              onchange: (event) => {
                this.weight = weights[event.target.value];
                this.see();
              },
            },
            weights.map((weight, index) => make("option", { value: index }, weight.path)),
          )
        : weights.length
          ? make("span", { class: "code" }, weights[0].path)
          : null;
    details.replaceChildren(
      make("h3", {}, chosen.path || chosen.name),
      make(
        "span",
        { class: "soft" },
        `${this.ops.length} operations${chosen.elements ? `, ${grouped(chosen.elements)} weights` : ""}`,
      ),
      make(
        "div",
        { class: "tabs", role: "tablist", "aria-label": "Pass" },
        PASSES.map((_, index) => (this.passes[index] ? tab(index) : null)),
      ),
      list,
      this.about,
      this.valueFigure,
      ...(pick ? [make("div", { style: "margin-top:16px" }, pick)] : []),
      this.figures,
    );
    const first = Math.max(
      0,
      lines.findIndex((op) => op.value),
    );
    this.explain(lines[first], list.children[first]);
    this.see();
  }

  turn(pass) {
    this.pass = pass;
    this.draw();
    this.details.querySelector('[aria-selected="true"]')?.focus();
  }

  explain(op, button) {
    if (!op) return;
    this.op = op;
    for (const each of button.parentElement.children) each.setAttribute("aria-pressed", String(each === button));
    const group = this.program.groups[op.group];
    this.valueFigure.replaceChildren();
    this.seeValue(op.value ?? null);
    const row = (name, value) => [make("dt", {}, name), make("dd", {}, value)];
    this.about.replaceChildren(
      ...row("type", make("span", { class: "code" }, op.type)),
      ...row("model's line", make("span", { class: "code" }, `${op.file}:${op.line}`)),
      ...(group
        ? [
            ...row("WebAssembly", make("span", { class: "code" }, group.name)),
            ...row("which does", group.ops.join(", ")),
            ...row(
              "takes",
              [
                group.flops ? `${short(group.flops)} operations of products` : null,
                `${short(group.bytes)}B of results`,
                this.seconds?.[op.group] ? duration(this.seconds[op.group]) : null,
              ]
                .filter(Boolean)
                .join(", "),
            ),
          ]
        : row("WebAssembly", "computed where it is used")),
    );
  }

  /** The elements of the chosen line's value, as they come. */
  showValue({ value, elements, size }) {
    const { op } = this;
    if (!op?.value || op.value.offset !== value.offset) return;
    let figure = this.valueFigure.firstChild;
    if (!figure) {
      figure = make("figure", {}, make("canvas", { class: "map", role: "img" }), make("figcaption"));
      this.valueFigure.replaceChildren(figure);
    }
    const [canvas, caption] = figure.children;
    this.heat(canvas, value.shape, elements, size);
    caption.textContent = `its value now, ${value.shape.join(" × ") || "a number"}: size ${size.toPrecision(3)}`;
    canvas.setAttribute("aria-label", caption.textContent);
  }

  /** Draws a tensor as a matrix: the last dimension across, the others down, and what is too tall in panels side by side. */
  heat(canvas, shape, elements, size) {
    const columns = shape.at(-1) ?? 1;
    const rows = Math.max(1, elements.length / columns);
    const room = Math.max(120, this.details.clientWidth - 44);
    const panels = Math.max(1, Math.min(Math.ceil(rows / 64), Math.floor(room / 3 / (columns + 1))));
    const height = Math.min(Math.ceil(rows / panels), 128);
    const width = panels * (columns + 1) - 1;
    const arranged = new Float32Array(height * width);
    for (let row = 0; row < Math.min(rows, panels * height); row++) {
      const at = (row % height) * width + Math.floor(row / height) * (columns + 1);
      arranged.set(elements.subarray(row * columns, (row + 1) * columns), at);
    }
    const cell = Math.max(1, Math.min(6, Math.floor(room / width), Math.floor(210 / height)));
    heatMap(canvas, height, width, arranged, 2.5 * size || 1, cell);
    canvas.style.maxWidth = "100%";
  }

  /** Begins to watch the chosen weights. */
  see() {
    this.shown = new Map();
    this.figures.replaceChildren(
      ...this.slots().map(({ slot, name }) => {
        const canvas = make("canvas", { class: "map", role: "img", "aria-label": name });
        const caption = make("figcaption", {}, name);
        this.shown.set(slot, { canvas, caption, name });
        return make("figure", {}, canvas, caption);
      }),
    );
    this.watch([...this.shown.keys()]);
    this.seeValue(this.op?.value ?? null);
  }

  show(tensors) {
    for (const { slot, shape, elements, norm } of tensors ?? []) {
      const figure = this.shown?.get(slot);
      if (!figure) continue;
      this.heat(figure.canvas, shape, elements, norm);
      figure.caption.textContent = `${figure.name}, ${shape.join(" × ")}: size ${norm.toPrecision(3)}`;
      figure.canvas.setAttribute("aria-label", figure.caption.textContent);
    }
  }
}

const WEIGHT_SLOT = "params/";
const OPTIMIZER_SLOT = "optimizer/";
/** What the optimizers call what they keep. */
const MOMENTS = {
  "adam.m": "mean gradient",
  "adam.v": "mean square of the gradient",
  "lion.m": "mean gradient",
  "muon.m": "mean gradient",
  ema: "averaged weights",
};
