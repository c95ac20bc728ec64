// A layer as boxes: the layers in it and its own ops, what flows between them, forward beside backward.
const BOX = { width: 178, height: 42, gapX: 22, gapY: 34, laneGap: 90 };
const MOST_BOXES = 260;

/** The boxes of a scope and what flows between them. */
function boxesOf(current, scope) {
  const direct = scope.own.filter((op) => !PLUMBING.has(current.text1("op", op)));
  const isCrowded = direct.length > MOST_BOXES;
  const boxes = new Map();
  const boxOf = new Map();
  const put = (key, fields, op) => {
    let box = boxes.get(key);
    if (!box) {
      box = { key, ops: [], flops: 0, first: op, ...fields };
      boxes.set(key, box);
    }
    box.ops.push(op);
    box.flops += current.flops[op] * current.times[op];
    // Zeros that a loop begins with are made long before the layer that they are of.
    if (!box.placed && !PLUMBING.has(current.text1("op", op))) Object.assign(box, { first: op, placed: true });
    boxOf.set(op, box);
  };
  for (const op of scope.all()) {
    const pass = current.pass[op];
    let at = current.scopeOf[op];
    // What is inside of a fusion is shown as the fusion.
    const fusion = current.fusionOf(op);
    if (fusion !== null && boxOf.has(fusion)) {
      const box = boxOf.get(fusion);
      box.ops.push(op);
      box.flops += current.flops[op] * current.times[op];
      boxOf.set(op, box);
      continue;
    }
    if (at === scope) {
      const word = current.text1("op", op);
      if (PLUMBING.has(word)) continue;
      if (isCrowded) put(`${word}/${pass}`, { title: word, pass, kind: "ops" }, op);
      else
        put(
          `#${op}`,
          { title: word === "fusion" ? current.text1("name", op).slice(1) : word, pass, kind: "op", op },
          op,
        );
      continue;
    }
    while (at.parent !== scope) at = at.parent;
    put(`${at.path}/${pass}`, { title: at.name, pass, kind: "scope", scope: at }, op);
  }
  // Through plumbing, from the box that a value comes from; what comes from outside is named by its layer.
  const edges = new Map();
  const memo = new Map();
  const sources = (op) => {
    if (boxOf.has(op)) return [boxOf.get(op)];
    if (memo.has(op)) return memo.get(op);
    memo.set(op, []);
    const isOutside = !inScope(current.scopeOf[op], scope);
    let found = [];
    if (isOutside && !PLUMBING.has(current.text1("op", op))) {
      const label = outsideName(current.scopeOf[op], scope);
      const key = `out:${label}/${current.pass[op]}`;
      if (label !== null)
        found = [
          boxes.get(key) ||
            boxes
              .set(key, { key, title: label, pass: current.pass[op], kind: "out", ops: [], flops: 0, first: op })
              .get(key),
        ];
    } else {
      found = [...new Set(current.operands[op].flatMap(sources))];
    }
    memo.set(op, found);
    return found;
  };
  for (const [op, box] of boxOf) {
    for (const operand of current.operands[op]) {
      for (const source of sources(operand)) {
        if (source === box) continue;
        const key = source.key + ">" + box.key;
        if (!edges.has(key)) edges.set(key, { from: source, to: box, type: current.text1("type", operand) });
      }
    }
  }
  return { boxes: [...boxes.values()], edges: [...edges.values()] };
}

const inScope = (at, scope) => {
  while (at && at !== scope) at = at.parent;
  return at === scope;
};

/** What a layer elsewhere is called from here: the part of its path from where the two part. Nothing for one around. */
function outsideName(at, scope) {
  const around = new Set();
  for (let up = scope; up; up = up.parent) around.add(up);
  if (around.has(at)) return at.parent ? at.name : null;
  while (!around.has(at.parent)) at = at.parent;
  return at.path;
}

/** Places of a lane's boxes: by the longest way to each, and close to what they come from. */
function layOut(boxes, edges, upwards) {
  const inLane = new Set(boxes);
  const order = new Map(
    boxes
      .slice()
      .sort((a, b) => a.first - b.first)
      .map((box, index) => [box, index]),
  );
  const incoming = new Map(boxes.map((box) => [box, []]));
  for (const edge of edges) {
    if (
      inLane.has(edge.from) &&
      inLane.has(edge.to) &&
      (edge.from.kind === "out" || order.get(edge.from) < order.get(edge.to))
    )
      incoming.get(edge.to).push(edge.from);
  }
  const ranks = [];
  const sorted = [...order.keys()].sort(
    (a, b) => (a.kind === "out" ? 0 : 1) - (b.kind === "out" ? 0 : 1) || order.get(a) - order.get(b),
  );
  for (const box of sorted) {
    box.rank = incoming.get(box).reduce((rank, from) => Math.max(rank, from.rank + 1), 0);
    (ranks[box.rank] ||= []).push(box);
  }
  // What comes from outside stands right before its first use.
  for (const box of boxes) {
    if (box.kind !== "out") continue;
    const uses = edges.filter((edge) => edge.from === box && inLane.has(edge.to)).map((edge) => edge.to.rank);
    const rank = Math.max(0, Math.min(...uses) - 1);
    if (rank !== box.rank && Number.isFinite(rank)) {
      ranks[box.rank].splice(ranks[box.rank].indexOf(box), 1);
      box.rank = rank;
      ranks[rank].push(box);
    }
  }
  let width = 0;
  ranks.forEach((rank) => {
    rank.forEach((box) => {
      const from = incoming.get(box).filter((other) => other.x !== undefined);
      box.wish = from.length ? from.reduce((sum, other) => sum + other.x, 0) / from.length : 0;
    });
    rank.sort((a, b) => a.wish - b.wish || order.get(a) - order.get(b));
    const span = rank.length * (BOX.width + BOX.gapX) - BOX.gapX;
    rank.forEach((box, index) => {
      box.x = index * (BOX.width + BOX.gapX) - span / 2;
    });
    width = Math.max(width, span);
  });
  const height = Math.max(0, ranks.length * (BOX.height + BOX.gapY) - BOX.gapY);
  boxes.forEach((box) => {
    box.x += width / 2;
    box.y = (upwards ? ranks.length - 1 - box.rank : box.rank) * (BOX.height + BOX.gapY);
  });
  return { width, height };
}

function drawDiagram() {
  const current = stage(state.stage);
  const scope = current.scopes.get(state.scope) || current.root;
  drawPath(scope);
  const panel = document.getElementById("diagram");
  const { boxes, edges } = boxesOf(current, scope);
  if (boxes.length === 0) {
    panel.replaceChildren(make("p", { cls: "note" }, "Nothing of this layer is in this stage."));
    return;
  }
  // In the order of time: what is computed again stands between forward and backward.
  const lanes = PASSES.map((name, pass) => ({ name, pass, boxes: boxes.filter((box) => box.pass === pass) })).filter(
    (lane) => lane.boxes.some((box) => box.kind !== "out"),
  );
  const shown = new Set(lanes.flatMap((lane) => lane.boxes));
  let x = 0;
  let height = 0;
  for (const lane of lanes) {
    Object.assign(lane, layOut(lane.boxes, edges, PASSES[lane.pass] === "backward"));
    lane.x = x;
    x += Math.max(lane.width, BOX.width) + BOX.laneGap;
    height = Math.max(height, lane.height);
  }
  const [left, top] = [24, 40];
  for (const lane of lanes) {
    const shift = (height - lane.height) / 2;
    lane.boxes.forEach((box) => {
      box.x += lane.x + left;
      box.y += top + (PASSES[lane.pass] === "forward" ? 0 : Math.max(0, shift));
    });
  }
  const size = { width: x - BOX.laneGap + 2 * left, height: height + top + 24 };
  const svg = makeSvg("svg", { viewBox: `0 0 ${size.width} ${size.height}` });
  for (const lane of lanes) {
    const label = makeSvg("text", { class: "lane", x: lane.x + left, y: 20 });
    label.textContent = lane.name;
    svg.append(label);
  }
  for (const edge of edges) {
    if (!shown.has(edge.from) || !shown.has(edge.to)) continue;
    edge.path = makeSvg("path", {
      class: "edge" + (edge.from.pass === edge.to.pass ? "" : " cross"),
      d: edgePath(edge),
    });
    const title = makeSvg("title");
    title.textContent = edge.type;
    edge.path.append(title);
    svg.append(edge.path);
  }
  const drawn = edges.filter((edge) => edge.path);
  for (const box of shown) svg.append(drawBox(box, current, svg, drawn, shown));
  const fit = Math.min(1.15, Math.max(0.75, (panel.clientWidth - 12) / size.width));
  const scale = state.zoom || fit;
  svg.setAttribute("width", size.width * scale);
  svg.setAttribute("height", size.height * scale);
  state.fit = scale;
  panel.replaceChildren(svg);
  if (state.zoom === 0) {
    panel.scrollTop = 0;
    panel.scrollLeft = 0;
  }
}

function edgePath({ from, to }) {
  const half = BOX.width / 2;
  if (from.pass !== to.pass) {
    const [a, b] = from.x < to.x ? [from.x + BOX.width, to.x] : [from.x, to.x + BOX.width];
    const [y1, y2] = [from.y + BOX.height / 2, to.y + BOX.height / 2];
    return `M${a} ${y1}C${(a + b) / 2} ${y1} ${(a + b) / 2} ${y2} ${b} ${y2}`;
  }
  const down = to.y >= from.y;
  const [x1, y1] = [from.x + half, from.y + (down ? BOX.height : 0)];
  const [x2, y2] = [to.x + half, to.y + (down ? 0 : BOX.height)];
  const span = Math.abs(y2 - y1);
  // A long edge goes around what stands between.
  if (span > BOX.height + 2 * BOX.gapY) {
    const side = Math.max(x1, x2) + half + 10;
    const turn = down ? 26 : -26;
    const out = `M${x1} ${y1}C${x1} ${y1 + turn} ${side} ${y1 + turn * 0.4} ${side} ${y1 + turn * 2}`;
    return `${out}L${side} ${y2 - turn * 2}C${side} ${y2 - turn * 0.4} ${x2} ${y2 - turn} ${x2} ${y2}`;
  }
  const bend = (y2 - y1) / 2;
  return `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}`;
}

function drawBox(box, current, svg, edges, shown) {
  const isChosen = box.kind === "op" && box.op === state.op;
  const group = makeSvg("g", {
    class: `box ${box.kind} ${box.kind === "out" ? "out" : "b" + box.pass}${isChosen ? " chosen" : ""}`,
    transform: `translate(${box.x} ${box.y})`,
  });
  box.group = group;
  group.append(makeSvg("rect", { width: BOX.width, height: BOX.height }));
  const line = (text, y, cls, most) => {
    const element = makeSvg("text", { x: 10, y, class: cls });
    element.textContent = text.length > most ? text.slice(0, most - 1) + "…" : text;
    group.append(element);
  };
  if (box.kind === "out") {
    line(box.title, 25, "", 27);
  } else {
    line(
      box.kind === "ops" ? `${box.title} × ${box.ops.length}` : box.title,
      17,
      "title",
      box.kind === "scope" ? 22 : 25,
    );
    const sub = box.kind === "op" ? current.text1("type", box.op) : counted(box.ops.length, "op");
    const work = box.flops ? flop(box.flops) : "";
    line(sub, 33, "sub", work ? 29 - work.length : 31);
    if (work) {
      const element = makeSvg("text", { x: BOX.width - 9, y: 33, class: "sub", "text-anchor": "end" });
      element.textContent = work;
      group.append(element);
    }
  }
  const title = makeSvg("title");
  title.textContent =
    box.kind === "op"
      ? `${current.text1("text", box.op)}\n${current.place(box.op)}`
      : box.scope
        ? box.scope.path
        : box.title;
  group.append(title);
  const twins =
    box.kind === "scope"
      ? [...shown].filter((other) => other.scope === box.scope && other !== box)
      : box.kind === "op"
        ? [...shown].filter(
            (other) => other.kind === "op" && other.pass !== box.pass && current.key(other.op) === current.key(box.op),
          )
        : [];
  group.addEventListener("pointerenter", () => {
    svg.classList.add("faded");
    const lit = [box, ...twins];
    edges.forEach((edge) => {
      if (edge.from !== box && edge.to !== box) return;
      edge.path.classList.add("lit");
      lit.push(edge.from, edge.to);
    });
    lit.forEach((other) => other.group.classList.add("lit"));
  });
  group.addEventListener("pointerleave", () => {
    svg.classList.remove("faded");
    svg.querySelectorAll(".lit").forEach((element) => element.classList.remove("lit"));
  });
  group.addEventListener("click", () => {
    if (box.kind === "op") choose({ op: box.op });
    else if (box.kind === "scope") {
      state.open.add(state.scope);
      choose({ scope: box.scope.path, op: null });
    } else if (box.kind === "out" && current.scopes.has(box.title)) choose({ scope: box.title, op: null });
  });
  return group;
}

function drawPath(scope) {
  const path = [];
  for (let at = scope; at; at = at.parent) path.unshift(at);
  const zoom = (factor) => () => {
    state.zoom = Math.min(2.5, Math.max(0.2, (state.fit || 1) * factor));
    drawDiagram();
  };
  document.getElementById("path").replaceChildren(
    ...path
      .flatMap((at, index) => [
        index ? make("span", {}, "›") : null,
        make("button", { type: "button", onclick: () => choose({ scope: at.path, op: null }) }, at.name),
      ])
      .filter(Boolean),
    make("span", { cls: "fill" }),
    make(
      "span",
      { cls: "zoom" },
      make("button", { type: "button", title: "Smaller", onclick: zoom(0.8) }, "−"),
      make("button", { type: "button", title: "Larger", onclick: zoom(1.25) }, "+"),
      make(
        "button",
        {
          type: "button",
          title: "Fit",
          onclick: () => {
            state.zoom = 0;
            drawDiagram();
          },
        },
        "⤢",
      ),
    ),
  );
}
