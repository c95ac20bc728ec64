// What differs from another dump.
function drawCompare() {
  const C = DATA.comparison;
  const change = (before, now, show) => {
    const sign = now > before ? "more" : now < before ? "less" : "soft";
    const ratio = before ? 100 * (now / before - 1) : 0;
    return [
      make("td", { cls: "num" }, show(before)),
      make("td", { cls: "num" }, show(now)),
      make(
        "td",
        { cls: "num " + sign },
        now === before
          ? "same"
          : before
            ? `${ratio > 0 ? "+" : "−"}${Math.abs(ratio).toFixed(Math.abs(ratio) < 10 ? 2 : 0)} %`
            : "new",
      ),
    ];
  };
  const sum = (side, index) => side.passes.reduce((all, pass) => all + pass[index], 0);
  const head = (...names) =>
    make(
      "tr",
      {},
      names.map((name, index) => make("th", { cls: index ? "num" : "" }, name)),
    );
  const stages = C.stages.flatMap((at) => [
    make(
      "tr",
      {},
      make("td", {}, TITLES[at.id], at.same ? make("span", { cls: "soft" }, "  the same text") : null),
      make("td", {}, "ops"),
      change(at.before.ops, at.now.ops, (n) => n.toLocaleString("en")),
    ),
    make("tr", {}, make("td", {}), make("td", {}, "FLOPs"), change(sum(at.before, 0), sum(at.now, 0), short)),
    ...PASSES.map((name, pass) =>
      at.before.passes[pass][0] !== at.now.passes[pass][0]
        ? make(
            "tr",
            {},
            make("td", {}),
            make("td", { cls: "soft" }, make("i", { cls: "dot i" + pass }), name),
            change(at.before.passes[pass][0], at.now.passes[pass][0], short),
          )
        : null,
    ),
    make("tr", {}, make("td", {}), make("td", {}, "bytes"), change(sum(at.before, 1), sum(at.now, 1), bytes)),
  ]);
  const memory =
    C.memory.now && C.memory.before
      ? [
          make("h2", {}, "Memory"),
          make(
            "table",
            {},
            head("", "before", "now", ""),
            make("tr", {}, make("td", {}, "peak"), change(C.memory.before.peak, C.memory.now.peak, bytes)),
            make("tr", {}, make("td", {}, "all allocations"), change(C.memory.before.total, C.memory.now.total, bytes)),
          ),
        ]
      : [];
  const differing = C.stages.filter((at) => at.ops.length > 0);
  const ops = differing.flatMap((at) => {
    const rows = at.ops.slice().sort((a, b) => Math.abs(b[5] - b[4]) - Math.abs(a[5] - a[4]) || (a[0] < b[0] ? -1 : 1));
    return [
      make(
        "details",
        { open: at === differing[0] },
        make("summary", {}, `${TITLES[at.id]}: ${rows.length.toLocaleString("en")} kinds of op differ`),
        make(
          "table",
          {},
          make(
            "tr",
            {},
            ["layer", "op", "type"].map((name) => make("th", {}, name)),
            ["before", "now"].map((name) => make("th", { cls: "num" }, name)),
          ),
          rows
            .slice(0, 400)
            .map(([layer, pass, op, type, before, now]) =>
              make(
                "tr",
                {},
                make("td", {}, make("i", { cls: "dot i" + pass }), layer || "(no layer)"),
                make("td", { cls: "code" }, op),
                make("td", { cls: "code soft" }, type.slice(0, 70)),
                make("td", { cls: "num" }, String(before)),
                make("td", { cls: "num" }, String(now)),
              ),
            ),
        ),
        rows.length > 400 ? make("p", {}, `and ${rows.length - 400} more`) : null,
      ),
    ];
  });
  document.getElementById("compare").replaceChildren(
    make(
      "div",
      { cls: "plain" },
      make("h2", {}, `${DATA.name} against ${C.name}`),
      make("p", {}, `Before: ${C.name}, for ${C.target}. Now: ${DATA.name}, for ${DATA.target}.`),
      make("h2", {}, "Settings"),
      C.settings.length
        ? make(
            "table",
            {},
            head("setting", "before", "now"),
            C.settings.map(([key, before, now]) =>
              make(
                "tr",
                {},
                make("td", { cls: "code" }, key),
                make("td", { cls: "num code" }, before === null ? "–" : before),
                make("td", { cls: "num code" }, now === null ? "–" : now),
              ),
            ),
          )
        : make("p", {}, "All settings are the same."),
      make("h2", {}, "Stages"),
      make("table", {}, head("stage", "", "before", "now", ""), stages),
      ...memory,
      make("h2", {}, "Ops"),
      ...(ops.length ? ops : [make("p", {}, "Every stage has the same ops.")]),
    ),
  );
}
