// Memory over the program's schedule: what is alive when, as areas and as a bar for each large value.
const M = DATA.memory;
const VALUE = { name: 0, type: 1, layer: 2, pass: 3, role: 4, size: 5, start: 6, end: 7 };
const MOST_BARS = 160;
const CHART = { width: 1000, height: 300, left: 62, bar: 7 };

/** Bytes of a layer, those below included, at the peak; nothing where the program was not compiled. */
function memoryOfLayer(path) {
  if (!M) return null;
  const prefix = path + ".";
  return aliveAt(M.at).reduce((sum, value) => {
    const layer = STRINGS[value[VALUE.layer]];
    return path === "" || layer === path || layer.startsWith(prefix) ? sum + value[VALUE.size] : sum;
  }, 0);
}

const aliveAt = (at) =>
  M.values
    .filter((value) => value[VALUE.start] <= at && at <= value[VALUE.end])
    .sort((a, b) => b[VALUE.size] - a[VALUE.size]);

function drawMemory() {
  const panel = document.getElementById("memory");
  if (!M) {
    panel.replaceChildren(
      make(
        "div",
        { cls: "plain" },
        make(
          "p",
          {},
          "This dump was made without compiling, so it is not known where values lie. ",
          "Run lmc inspect without --no-compile.",
        ),
      ),
    );
    return;
  }
  if (state.at === undefined) state.at = M.at;
  const count = M.steps.length;
  const planned = DATA.compiled.memory;
  const chart = make("div", { cls: "chart" });
  const left = make(
    "div",
    {},
    make("h2", {}, "Memory over the schedule"),
    make(
      "p",
      {},
      `${bytes(M.total)} in all, at most ${bytes(M.peak)} alive at once, at instruction `,
      `${M.at.toLocaleString("en")} of ${count.toLocaleString("en")}. Each instruction of the compiled program is a `,
      "place on the axis, those of a loop's body once; a bar is a value from its making to its last use. ",
      "Click for what is alive there.",
    ),
    make(
      "div",
      { cls: "keys", style: "margin-bottom:10px" },
      M.roles.map((name, role) => make("span", {}, make("i", { cls: "k" + role }), name)),
    ),
    chart,
  );
  const right = make("div", { id: "alive" });
  panel.replaceChildren(make("div", { cls: "plain" }, make("div", { cls: "columns" }, left, right)));
  if (planned.temporaries !== undefined) {
    left.append(
      make(
        "p",
        { style: "margin-top:16px" },
        `As the compiler planned it: arguments ${bytes(planned.arguments)}, results ${bytes(planned.outputs)}, `,
        `${bytes(planned.alias)} of them in the arguments' memory, temporaries ${bytes(planned.temporaries)}.`,
      ),
    );
  }
  drawChart(chart);
  drawAlive();
}

function drawChart(chart) {
  const count = M.steps.length;
  const width = CHART.width - CHART.left;
  const x = (at) => CHART.left + (width * at) / count;
  const most = M.peak * 1.06;
  const y = (value) => CHART.height - ((CHART.height - 14) * value) / most;
  const bars = M.values
    .filter((value) => value[VALUE.end] - value[VALUE.start] < count - 1)
    .sort((a, b) => b[VALUE.size] - a[VALUE.size])
    .slice(0, MOST_BARS)
    .sort((a, b) => a[VALUE.start] - b[VALUE.start] || b[VALUE.size] - a[VALUE.size]);
  const top = CHART.height + 40;
  const height = top + bars.length * CHART.bar + 8;
  const svg = makeSvg("svg", { viewBox: `0 0 ${CHART.width} ${height}` });
  const axis = makeSvg("g", { class: "axis" });
  for (let part = 0; part <= 4; part += 1) {
    const value = (M.peak * part) / 4;
    axis.append(makeSvg("line", { x1: CHART.left, x2: CHART.width, y1: y(value), y2: y(value) }));
    const label = makeSvg("text", { x: CHART.left - 8, y: y(value) + 4, "text-anchor": "end" });
    label.textContent = bytes(value);
    axis.append(label);
  }
  svg.append(axis);
  // A column of the chart shows the most of the places in it.
  const columns = Math.min(count, 1200);
  const places = Array.from({ length: columns }, (_, column) => {
    const [from, to] = [
      Math.floor((column * count) / columns),
      Math.max(Math.floor((column * count) / columns) + 1, Math.floor(((column + 1) * count) / columns)),
    ];
    let best = from;
    for (let at = from; at < to; at += 1) if (total(at) > total(best)) best = at;
    return { from, to, best };
  });
  const base = new Array(columns).fill(0);
  M.timeline.forEach((sums, role) => {
    let upper = "";
    let lower = "";
    places.forEach(({ from, to, best }, column) => {
      const [x1, x2] = [x(from).toFixed(1), x(to).toFixed(1)];
      const [bottom, head] = [y(base[column]).toFixed(1), y(base[column] + sums[best]).toFixed(1)];
      upper += `L${x1} ${head}L${x2} ${head}`;
      lower = `L${x2} ${bottom}L${x1} ${bottom}` + lower;
      base[column] += sums[best];
    });
    svg.append(makeSvg("path", { class: "c" + role, d: "M" + upper.slice(1) + lower + "Z", opacity: 0.86 }));
  });
  // Which pass runs.
  places.forEach(({ from, to }) => {
    svg.append(
      makeSvg("rect", {
        x: x(from),
        y: CHART.height + 6,
        width: x(to) - x(from) + 0.3,
        height: 7,
        fill: `var(--p${M.passes[from]})`,
      }),
    );
  });
  const note = makeSvg("g", { class: "axis" });
  [0, 0.25, 0.5, 0.75, 1].forEach((part) => {
    const label = makeSvg("text", {
      x: x(count * part),
      y: CHART.height + 28,
      "text-anchor": part === 1 ? "end" : part === 0 ? "start" : "middle",
    });
    label.textContent = Math.round(count * part).toLocaleString("en");
    note.append(label);
  });
  svg.append(note, makeSvg("line", { class: "peak", x1: x(M.at), x2: x(M.at), y1: 4, y2: CHART.height }));
  const group = makeSvg("g", { class: "bars" });
  bars.forEach((value, index) => {
    const bar = makeSvg("rect", {
      class: "c" + value[VALUE.role],
      x: x(value[VALUE.start]),
      y: top + index * CHART.bar,
      width: Math.max(1.5, x(value[VALUE.end] + 1) - x(value[VALUE.start])),
      height: CHART.bar - 1.5,
      rx: 1.5,
    });
    const title = makeSvg("title");
    title.textContent = [
      STRINGS[value[VALUE.name]],
      `${STRINGS[value[VALUE.type]]}, ${bytes(value[VALUE.size])}`,
      `${PASSES[value[VALUE.pass]]} of ${STRINGS[value[VALUE.layer]]}`,
      `from ${value[VALUE.start]} to ${value[VALUE.end]}`,
    ].join("\n");
    bar.append(title);
    group.append(bar);
  });
  svg.append(group);
  const mark = makeSvg("line", { class: "at", y1: 4, y2: height });
  svg.append(mark);
  const tip = make("div", { cls: "tip", hidden: true });
  chart.replaceChildren(svg, tip);
  const place = (event) => {
    const box = svg.getBoundingClientRect();
    const at = Math.floor(((((event.clientX - box.left) / box.width) * CHART.width - CHART.left) / width) * count);
    return at < 0 || at >= count ? null : at;
  };
  const put = () => {
    mark.setAttribute("x1", x(state.at + 0.5));
    mark.setAttribute("x2", x(state.at + 0.5));
  };
  put();
  svg.addEventListener("click", (event) => {
    const at = place(event);
    if (at !== null) {
      state.at = at;
      put();
      drawAlive();
      remember();
    }
  });
  svg.addEventListener("pointermove", (event) => {
    const at = place(event);
    const box = svg.getBoundingClientRect();
    tip.hidden = at === null || ((event.clientY - box.top) / box.width) * CHART.width > CHART.height + 16;
    if (tip.hidden) return;
    tip.replaceChildren(
      make("b", {}, `${at.toLocaleString("en")}: ${bytes(total(at))}`),
      make("div", {}, `%${STRINGS[M.steps[at]]}`),
      make("div", { cls: "soft" }, `${PASSES[M.passes[at]]} ${STRINGS[M.layers[at]]}`),
      ...M.roles
        .map((name, role) =>
          M.timeline[role][at]
            ? make("div", {}, make("i", { cls: "dot k" + role }), `${name} ${bytes(M.timeline[role][at])}`)
            : null,
        )
        .filter(Boolean),
    );
    const side = event.clientX - box.left;
    tip.style.left = (side < box.width / 2 ? side + 16 : side - 16 - tip.offsetWidth) + "px";
    tip.style.top = Math.max(0, event.clientY - box.top - 20) + "px";
  });
  svg.addEventListener("pointerleave", () => {
    tip.hidden = true;
  });
}

const total = (at) => M.timeline.reduce((sum, role) => sum + role[at], 0);

function drawAlive() {
  const alive = aliveAt(state.at);
  const layers = new Map();
  alive.forEach((value) => {
    const layer = steps(STRINGS[value[VALUE.layer]]).slice(0, 2).join(".") || "(no layer)";
    layers.set(layer, (layers.get(layer) || 0) + value[VALUE.size]);
  });
  const all = total(state.at);
  document.getElementById("alive").replaceChildren(
    make("h2", {}, state.at === M.at ? "Alive at the peak" : `Alive at ${state.at.toLocaleString("en")}`),
    make(
      "p",
      {},
      `${bytes(all)} in ${alive.length.toLocaleString("en")} values. `,
      make("span", { cls: "code" }, "%" + STRINGS[M.steps[state.at]]),
      " runs.",
    ),
    make(
      "table",
      {},
      M.roles.map((name, role) =>
        M.timeline[role][state.at]
          ? make(
              "tr",
              {},
              make("td", {}, make("i", { cls: "dot k" + role }), name),
              make("td", { cls: "num" }, bytes(M.timeline[role][state.at])),
              make("td", { cls: "num" }, percent(M.timeline[role][state.at], all)),
            )
          : null,
      ),
    ),
    make("h2", {}, "By layer"),
    make(
      "table",
      {},
      [...layers]
        .sort((a, b) => b[1] - a[1])
        .slice(0, 16)
        .map(([layer, size]) =>
          make(
            "tr",
            {},
            make("td", {}, layer),
            make("td", { cls: "num" }, bytes(size)),
            make("td", { cls: "num" }, percent(size, all)),
          ),
        ),
    ),
    make("h2", {}, "The largest"),
    make(
      "table",
      {},
      alive
        .slice(0, 60)
        .map((value) =>
          make(
            "tr",
            { title: `from ${value[VALUE.start]} to ${value[VALUE.end]}` },
            make(
              "td",
              {},
              make("i", { cls: "dot k" + value[VALUE.role] }),
              make("span", { cls: "code" }, STRINGS[value[VALUE.name]]),
              make("div", { cls: "soft" }, `${STRINGS[value[VALUE.type]]} ${STRINGS[value[VALUE.layer]]}`),
            ),
            make("td", { cls: "num" }, bytes(value[VALUE.size])),
          ),
        ),
    ),
  );
}
