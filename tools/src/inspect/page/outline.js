// The layers, as a tree with the share of each.
const ROW = 25;
const METRICS = [
  ["flops", "FLOPs"],
  ["bytes", "bytes"],
  ["ops", "ops"],
];

function drawOutline() {
  const current = stage(state.stage);
  const panel = document.getElementById("outline");
  const bar = make(
    "div",
    { cls: "bar" },
    make("span", {}, "Layers"),
    make("span", { cls: "fill" }),
    METRICS.map(([metric, label]) =>
      make(
        "button",
        {
          type: "button",
          "aria-pressed": String(state.metric === metric),
          onclick: () => {
            state.metric = metric;
            drawOutline();
          },
        },
        label,
      ),
    ),
    make(
      "button",
      {
        type: "button",
        title: "Fold all",
        onclick: () => {
          state.open = new Set([""]);
          drawOutline();
        },
      },
      "⊟",
    ),
  );
  const most = current.root.sum(state.metric) || 1;
  const hits = state.query ? countHits(current, state.found) : null;
  // Makers of rows: only those in sight are made.
  const rows = [];
  const visit = (scope) => {
    const isOpen = state.open.has(scope.path);
    rows.push(() => scopeRow(scope, most, isOpen, scope.children.length > 0 || scope.own.length > 0, hits));
    if (!isOpen) return;
    scope.children.forEach(visit);
    if (scope.path === "" && scope.children.length > 0) return;
    for (const op of scope.own) if (!PLUMBING.has(current.text1("op", op))) rows.push(() => opRow(current, scope, op));
  };
  visit(current.root);
  const body = make("div", { style: `position:relative;height:${rows.length * ROW}px` });
  const draw = () => {
    const first = Math.max(0, Math.floor(panel.scrollTop / ROW) - 10);
    body.replaceChildren(
      ...rows.slice(first, first + Math.ceil(panel.clientHeight / ROW) + 20).map((row, index) => {
        const element = row();
        element.style.top = (first + index) * ROW + "px";
        return element;
      }),
    );
  };
  const top = panel.scrollTop;
  panel.replaceChildren(bar, body);
  panel.scrollTop = top;
  panel.onscroll = draw;
  draw();
}

function countHits(current, found) {
  const hits = new Map();
  found.forEach((op) => {
    for (let scope = current.scopeOf[op]; scope; scope = scope.parent) hits.set(scope, (hits.get(scope) || 0) + 1);
  });
  return hits;
}

function scopeRow(scope, most, isOpen, canOpen, hits) {
  const sum = scope.sum(state.metric);
  const widths = scope[state.metric].map((part) => (100 * part) / most);
  const name = make("span", { title: scope.path }, scope.name);
  const fold = (event) => {
    event.stopPropagation();
    if (state.open.has(scope.path)) state.open.delete(scope.path);
    else state.open.add(scope.path);
    drawOutline();
  };
  return make(
    "div",
    {
      cls: "row" + (state.scope === scope.path ? " chosen" : "") + (hits && !hits.has(scope) ? " dim" : ""),
      onclick: () => choose({ scope: scope.path, op: null }),
      ondblclick: fold,
    },
    make(
      "div",
      { cls: "name", style: `padding-left:${8 + 15 * scope.depth}px` },
      make(
        "button",
        { cls: "twist", type: "button", "aria-label": "Fold", onclick: fold },
        canOpen ? (isOpen ? "▼" : "▶") : "",
      ),
      name,
      hits && hits.has(scope) ? make("span", { cls: "hits" }, String(hits.get(scope))) : null,
    ),
    split(widths),
    make("div", { cls: "value" }, state.metric === "bytes" ? bytes(sum) : short(sum)),
  );
}

function opRow(current, scope, op) {
  return make(
    "div",
    { cls: "row" + (state.op === op ? " chosen" : ""), onclick: () => choose({ scope: scope.path, op }) },
    make(
      "div",
      { cls: "name", style: `padding-left:${30 + 15 * scope.depth}px` },
      make("i", { cls: "dot i" + current.pass[op] }),
      make("span", { cls: "op" }, current.text1("op", op)),
    ),
    make("span"),
    make(
      "div",
      { cls: "value" },
      state.metric === "ops"
        ? ""
        : state.metric === "bytes"
          ? bytes(current.bytes[op] * current.times[op])
          : short(current.flops[op] * current.times[op]),
    ),
  );
}

/** A bar in the colours of the passes. */
function split(widths) {
  return make(
    "div",
    { cls: "split" },
    widths.map((width, pass) =>
      width > 0 ? make("i", { cls: "i" + pass, style: `width:${Math.max(width, 0.6)}%` }) : null,
    ),
  );
}
