// The ops of a layer, or what a search found, as a table of which only the part in sight exists; and details.
const LINE = 24;

function listed() {
  const current = stage(state.stage);
  const scope = current.scopes.get(state.scope) || current.root;
  const ops = state.query ? state.found : scope.all();
  if (state.sort === "order") return ops;
  const key = state.sort === "times" ? (op) => current.times[op] : (op) => current[state.sort][op] * current.times[op];
  return ops.slice().sort((a, b) => key(b) - key(a) || a - b);
}

function drawListing() {
  const current = stage(state.stage);
  const panel = document.getElementById("listing");
  const ops = listed();
  const heading = (label, sort, cls = "") =>
    make(
      "button",
      {
        type: "button",
        cls,
        onclick: () => {
          state.sort = sort;
          drawListing();
        },
      },
      label + (state.sort === sort && sort !== "order" ? " ↓" : ""),
    );
  const what = state.query ? `${ops.length.toLocaleString("en")} found` : counted(ops.length, "op");
  const head = make(
    "div",
    { cls: "head" },
    make("span"),
    heading(what, "order"),
    make("span", {}, "type"),
    make("span", {}, "layer"),
    heading("FLOPs", "flops", "num"),
    heading("bytes", "bytes", "num"),
    heading("runs", "times", "num"),
    make("span", {}, "line"),
  );
  const body = make("div", { style: `height:${ops.length * LINE}px;position:relative` });
  panel.replaceChildren(head, body);
  const draw = () => {
    const first = Math.max(0, Math.floor((panel.scrollTop - 28) / LINE) - 8);
    const last = Math.min(ops.length, first + Math.ceil(panel.clientHeight / LINE) + 16);
    const rows = [];
    for (let index = first; index < last; index += 1) rows.push(listingLine(current, ops[index], index));
    body.replaceChildren(...rows);
  };
  panel.onscroll = draw;
  const at = state.op === null ? -1 : ops.indexOf(state.op);
  panel.scrollTop = at > 0 ? Math.max(0, at * LINE - panel.clientHeight / 3) : 0;
  draw();
}

function listingLine(current, op, index) {
  const work = current.flops[op] * current.times[op];
  const moved = current.bytes[op] * current.times[op];
  return make(
    "div",
    {
      cls: "line" + (state.op === op ? " chosen" : ""),
      style: `top:${index * LINE}px`,
      title: current.text1("text", op),
      onclick: () => choose({ op, scope: current.scopeOf[op].path, keep: true }),
    },
    make("i", { cls: "dot i" + current.pass[op], title: PASSES[current.pass[op]] }),
    make("span", { cls: "code" }, current.text1("op", op)),
    make("span", { cls: "code soft" }, current.text1("type", op)),
    make("span", { cls: "soft" }, current.text1("layer", op)),
    make("span", { cls: "num" }, work ? short(work) : "–"),
    make("span", { cls: "num soft" }, moved ? bytes(moved) : "–"),
    make("span", { cls: "num soft" }, current.times[op] === 1 ? "" : short(current.times[op])),
    make("span", { cls: "soft" }, current.place(op, 1)),
  );
}

function drawDetails() {
  const panel = document.getElementById("details");
  const current = stage(state.stage);
  panel.replaceChildren(
    ...(state.op === null
      ? scopeDetails(current, current.scopes.get(state.scope) || current.root)
      : opDetails(current, state.op)),
  );
  panel.scrollTop = 0;
}

const fact = (name, ...value) => make("tr", {}, make("th", {}, name), make("td", {}, ...value));

function opItem(current, op, more) {
  return make(
    "div",
    { cls: "item" },
    make("i", { cls: "dot i" + current.pass[op] }),
    make(
      "button",
      {
        type: "button",
        cls: "link code",
        title: current.text1("text", op),
        onclick: () => choose({ stage: current.id, op, scope: current.scopeOf[op].path }),
      },
      current.text1("op", op),
    ),
    make("span", { cls: "soft" }, more === undefined ? current.text1("type", op).slice(0, 28) : more),
  );
}

function items(title, current, ops, most = 8) {
  if (ops.length === 0) return [];
  const rest = ops.length - most;
  return [
    make("h3", {}, title),
    ...ops.slice(0, most).map((op) => opItem(current, op)),
    ...(rest > 0 ? [make("div", { cls: "soft" }, `and ${rest} more`)] : []),
  ];
}

function opDetails(current, op) {
  const work = current.flops[op] * current.times[op];
  const moved = current.bytes[op] * current.times[op];
  const pass = current.pass[op];
  const same = (current.byLine.get(current.key(op)) || []).filter((other) => other !== op);
  const layer = current.text1("layer", op);
  const others = DATA.stages
    .filter((raw) => raw.id !== current.id)
    .flatMap((raw) => {
      const other = stage(raw.id);
      const found = (other.byLine.get(current.key(op)) || []).filter(
        (found) => other.pass[found] === pass && other.text1("op", found) !== "constant",
      );
      if (found.length === 0) return [];
      // The same word first.
      const word = current.text1("op", op).replaceAll("_", "-").replace("dot-general", "dot");
      found.sort(
        (a, b) =>
          Number(other.text1("op", b).replaceAll("_", "-").startsWith(word)) -
          Number(other.text1("op", a).replaceAll("_", "-").startsWith(word)),
      );
      return [
        make("h3", {}, `In ${other.title}, of this line: ${found.length}`),
        ...found.slice(0, 4).map((found) => opItem(other, found)),
      ];
    });
  return [
    make("h2", { cls: "code", style: "font-size:14px" }, current.text1("op", op)),
    make(
      "div",
      {},
      make("i", { cls: "dot i" + pass }),
      PASSES[pass],
      layer ? " of " : "",
      make(
        "button",
        { type: "button", cls: "link", onclick: () => choose({ scope: current.scopeOf[op].path, op: null }) },
        layer,
      ),
    ),
    make("div", { cls: "code block" }, current.text1("text", op)),
    make("h3", {}, "Cost of a step"),
    make(
      "table",
      {},
      fact("type", make("span", { cls: "code" }, current.text1("type", op))),
      fact("FLOPs", work ? `${flop(work)} (${percent(work, current.root.sum("flops"))})` : "none"),
      fact("bytes", moved ? bytes(moved) : "none"),
      work && moved ? fact("FLOPs a byte", (work / moved).toFixed(1)) : null,
      fact("runs", current.times[op].toLocaleString("en")),
      fact("line", current.place(op, 9) || "unknown"),
    ),
    ...items("Uses", current, current.operands[op]),
    ...items("Used by", current, current.users[op]),
    ...PASSES.flatMap((name, other) =>
      other === pass
        ? []
        : items(
            `${name} of this line`,
            current,
            same.filter((found) => current.pass[found] === other && !PLUMBING.has(current.text1("op", found))),
          ),
    ),
    ...others,
  ];
}

function scopeDetails(current, scope) {
  const total = current.root;
  const rows = PASSES.map((name, pass) =>
    scope.ops[pass]
      ? make(
          "tr",
          {},
          make("td", {}, make("i", { cls: "dot i" + pass }), name),
          make("td", { cls: "num" }, scope.ops[pass].toLocaleString("en")),
          make("td", { cls: "num" }, short(scope.flops[pass])),
          make("td", { cls: "num" }, bytes(scope.bytes[pass])),
        )
      : null,
  );
  const largest = scope
    .all()
    .slice()
    .sort((a, b) => current.flops[b] * current.times[b] - current.flops[a] * current.times[a])
    .filter((op) => current.flops[op] > 0)
    .slice(0, 6);
  const stages = DATA.stages.map((raw) => {
    const other = stage(raw.id);
    const there = other.scopes.get(scope.path);
    return make(
      "tr",
      {},
      make(
        "td",
        {},
        make(
          "button",
          { type: "button", cls: "link", onclick: () => choose({ stage: raw.id, op: null }) },
          other.title,
        ),
      ),
      make("td", { cls: "num" }, there ? there.sum("ops").toLocaleString("en") : "–"),
      make("td", { cls: "num" }, there ? short(there.sum("flops")) : "–"),
      make("td", { cls: "num" }, there ? bytes(there.sum("bytes")) : "–"),
    );
  });
  const headings = (first) =>
    make(
      "tr",
      {},
      make("th", {}, first),
      ["ops", "FLOPs", "bytes"].map((name) => make("th", { cls: "num" }, name)),
    );
  const memory = memoryOfLayer(scope.path);
  return [
    make("h2", {}, scope.name),
    scope.path && scope.path !== scope.name ? make("div", { cls: "soft" }, scope.path) : null,
    make(
      "div",
      { style: "margin:12px 0 4px" },
      split(scope.flops.map((part) => (100 * part) / (scope.sum("flops") || 1))),
    ),
    make(
      "div",
      { cls: "soft" },
      `${percent(scope.sum("flops"), total.sum("flops"))} of the FLOPs, `,
      `${percent(scope.sum("bytes"), total.sum("bytes"))} of the bytes`,
    ),
    make("h3", {}, `A step, in ${current.title}`),
    make("table", {}, headings("pass"), rows),
    memory === null ? null : make("h3", {}, "Memory at the peak"),
    memory === null ? null : make("div", {}, `${bytes(memory)}, ${percent(memory, DATA.memory.peak)}`),
    ...(largest.length
      ? [
          make("h3", {}, "Most work"),
          ...largest.map((op) => opItem(current, op, short(current.flops[op] * current.times[op]))),
        ]
      : []),
    make("h3", {}, "Through the stages"),
    make("table", {}, headings("stage"), stages),
  ].filter(Boolean);
}
