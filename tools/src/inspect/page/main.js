// What brings the parts together: choosing, searching, stepping through the stages, and the address that remembers it.
function choose(change) {
  const moved = change.scope !== undefined && change.scope !== state.scope;
  const other = change.stage !== undefined && change.stage !== state.stage;
  if (other) {
    state.op = null;
    state.zoom = 0;
  }
  const { keep, ...fields } = change;
  Object.assign(state, fields, { view: "program" });
  if (moved && !keep) state.zoom = 0;
  if (other && state.query) state.found = stage(state.stage).find(state.query);
  for (let at = stage(state.stage).scopes.get(state.scope); at && at.parent; at = at.parent)
    state.open.add(at.parent.path);
  draw(keep ? ["outline", "diagram", "details", "chosen"] : undefined);
}

function draw(parts) {
  const all = parts === undefined;
  for (const view of ["program", "memory", "compare"]) document.getElementById(view).hidden = state.view !== view;
  drawStages();
  drawSummary();
  if (state.view === "memory") drawMemory();
  if (state.view === "compare") drawCompare();
  if (state.view === "program") {
    if (!stage(state.stage).scopes.has(state.scope) && all) state.missing = state.scope;
    drawOutline();
    drawDiagram();
    if (all) drawListing();
    else markChosen();
    drawDetails();
  }
  remember();
}

/** The chosen line of the list, without making the list anew. */
function markChosen() {
  document.getElementById("listing").onscroll();
}

function drawStages() {
  const button = (label, isCurrent, change, title) =>
    make("button", { type: "button", title, "aria-current": isCurrent ? "true" : undefined, onclick: change }, label);
  const views = [
    button(
      "Memory",
      state.view === "memory",
      () => {
        state.view = "memory";
        draw();
      },
      "What is alive when",
    ),
  ];
  if (DATA.comparison)
    views.push(
      button(
        "Compare",
        state.view === "compare",
        () => {
          state.view = "compare";
          draw();
        },
        "What differs from " + DATA.comparison.name,
      ),
    );
  document
    .getElementById("stages")
    .replaceChildren(
      ...DATA.stages.map((raw) =>
        button(
          TITLES[raw.id],
          state.view === "program" && state.stage === raw.id,
          () => choose({ stage: raw.id }),
          raw.about,
        ),
      ),
      make("span", { cls: "gap" }),
      ...views,
    );
}

function drawSummary() {
  const { root } = stage(state.stage);
  const flops = root.sum("flops");
  const parts = PASSES.map((name, pass) =>
    root.ops[pass]
      ? make("span", {}, make("i", { cls: "i" + pass }), `${name} ${percent(root.flops[pass], flops)}`)
      : null,
  ).filter(Boolean);
  const figure = (value, label) => make("span", {}, make("b", { style: "color:var(--ink)" }, value), " " + label);
  const analysis = DATA.compiled.cost_analysis.flops;
  document
    .getElementById("summary")
    .replaceChildren(
      figure(root.sum("ops").toLocaleString("en"), "ops"),
      figure(short(flops), "FLOPs a step"),
      make("div", { style: "width:190px" }, split(root.flops.map((part) => (100 * part) / (flops || 1)))),
      make("div", { cls: "keys" }, parts),
      figure(bytes(root.sum("bytes")), "moved"),
      ...(M ? [figure(bytes(M.peak), "at the peak")] : []),
      ...(analysis ? [figure(short(analysis), "FLOPs by XLA's own count, loops once")] : []),
    );
}

function search(query) {
  state.query = query.trim();
  state.found = state.query ? stage(state.stage).find(state.query) : [];
  if (state.view !== "program") {
    state.view = "program";
    draw();
    return;
  }
  drawOutline();
  drawListing();
  remember();
}

/** The address keeps what is shown, so that it can be sent to somebody. Not more often than browsers like. */
function remember() {
  clearTimeout(state.remembering);
  state.remembering = setTimeout(keepInAddress, 150);
}

function keepInAddress() {
  const kept = new URLSearchParams();
  for (const key of ["view", "stage", "scope", "query"]) if (state[key]) kept.set(key, state[key]);
  if (state.op !== null) kept.set("op", state.op);
  if (state.at !== undefined) kept.set("at", state.at);
  history.replaceState(null, "", "#" + kept);
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  if (RAW.has(kept.get("stage"))) state.stage = kept.get("stage");
  if (["memory", "compare"].includes(kept.get("view")) && (kept.get("view") !== "compare" || DATA.comparison))
    state.view = kept.get("view");
  state.scope = kept.get("scope") || "";
  const op = Number(kept.get("op"));
  if (kept.has("op") && Number.isInteger(op) && op >= 0 && op < stage(state.stage).count) state.op = op;
  if (M && kept.has("at")) state.at = Math.min(M.steps.length - 1, Math.max(0, Number(kept.get("at")) || 0));
  if (kept.get("theme")) document.documentElement.dataset.theme = kept.get("theme");
  const top = stage(state.stage).root.children;
  // One layer that holds nearly all: open it.
  top.filter((scope) => scope.children.length > 1).forEach((scope) => state.open.add(scope.path));
  for (let at = stage(state.stage).scopes.get(state.scope); at; at = at.parent) state.open.add(at.path);
  if (kept.get("query")) {
    state.query = kept.get("query");
    state.found = stage(state.stage).find(state.query);
    document.querySelector("#search input").value = state.query;
  }
}

document.getElementById("name").textContent = DATA.name;
document.getElementById("target").textContent = DATA.target;
const dark = matchMedia("(prefers-color-scheme: dark)");
document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
dark.addEventListener("change", () => {
  document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
});
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
});
const input = document.querySelector("#search input");
input.addEventListener("input", () => search(input.value));
// What search looks at is made before the first letter.
input.addEventListener("focus", () => stage(state.stage).haystack);
addEventListener("keydown", (event) => {
  if (event.target === input) {
    if (event.key === "Escape") {
      input.value = "";
      search("");
      input.blur();
    }
    return;
  }
  if (event.key === "/") {
    event.preventDefault();
    input.focus();
  }
  if (event.key === "Escape") choose({ op: null });
  const at = DATA.stages.findIndex((raw) => raw.id === state.stage);
  if (event.key === "[" && at > 0) choose({ stage: DATA.stages[at - 1].id });
  if (event.key === "]" && at + 1 < DATA.stages.length) choose({ stage: DATA.stages[at + 1].id });
});
for (const grip of document.querySelectorAll(".grip")) {
  const panel = document.getElementById(grip.dataset.for);
  grip.addEventListener("pointerdown", (event) => {
    grip.setPointerCapture(event.pointerId);
    const [x, y, width, height] = [event.clientX, event.clientY, panel.offsetWidth, panel.offsetHeight];
    grip.onpointermove = (move) => {
      if (grip.dataset.for === "diagram") panel.style.height = Math.max(60, height + move.clientY - y) + "px";
      else
        panel.style.width =
          Math.max(160, width + (grip.dataset.for === "details" ? x - move.clientX : move.clientX - x)) + "px";
    };
    grip.onpointerup = () => {
      grip.onpointermove = null;
      if (state.view === "program") {
        drawDiagram();
        markChosen();
      }
    };
  });
}
addEventListener("resize", () => {
  if (state.view === "program") {
    drawDiagram();
    markChosen();
  }
});
recall();
draw();
