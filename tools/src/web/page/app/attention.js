/** For every layer and head a square: a row a letter that is read, a column a letter that it looks at. */
class AttentionMaps {
  constructor(group) {
    this.group = group;
    this.maps = [];
  }

  restart(layers) {
    this.maps = [];
    this.group.replaceChildren();
    this.layers = layers;
  }

  show({ ids, attention }, labels, text) {
    if (this.maps.length !== attention.length) {
      this.maps = attention.map(({ heads }) =>
        Array.from({ length: heads }, () => make("canvas", { class: "map", role: "img" })),
      );
      this.group.replaceChildren(
        ...attention.map(({ scope }, layer) =>
          make("figure", {}, make("div", { class: "maps" }, this.maps[layer]), make("figcaption", {}, scope)),
        ),
      );
    }
    const count = ids.length;
    // Four beside each other, on a phone two.
    const side =
      innerWidth < 560
        ? (innerWidth - 42) / 2
        : Math.max(96, Math.min(156, (Math.min(innerWidth, 1240) - 60) / 4 - 14));
    attention.forEach(({ heads, context, weights }, layer) => {
      for (let head = 0; head < heads; head++)
        this.draw(this.maps[layer][head], { count, side, context, weights, head, ids, labels, text });
    });
  }

  draw(canvas, { count, side, context, weights, head, ids, labels, text }) {
    const name = `Head ${head + 1} reading “${text}”`;
    const edge = 15;
    canvas.style.width = canvas.style.height = side + "px";
    const { context: paint } = surface(canvas);
    const cell = (side - edge) / count;
    const [paper, ink] = [colours.rgb("raised"), colours.rgb("accent")];
    paint.font = `${Math.min(11, cell * 0.9)}px system-ui, sans-serif`;
    paint.textAlign = "center";
    paint.textBaseline = "middle";
    const strongest = [];
    for (let row = 0; row < count; row++) {
      let best = 0;
      for (let column = 0; column <= row; column++) {
        const weight = weights[(head * context + row) * context + column];
        if (weight > weights[(head * context + row) * context + best]) best = column;
        const mixed = paper.map((channel, at) => Math.round(channel + weight ** 0.75 * (ink[at] - channel)));
        paint.fillStyle = `rgb(${mixed.join(" ")})`;
        paint.fillRect(edge + column * cell, edge + row * cell, cell - 0.6, cell - 0.6);
      }
      strongest.push(`${labels[ids[row]]} at ${labels[ids[best]]}`);
      paint.fillStyle = colours.of("soft");
      paint.fillText(labels[ids[row]], edge / 2, edge + (row + 0.5) * cell);
      paint.fillText(labels[ids[row]], edge + (row + 0.5) * cell, edge / 2);
    }
    canvas.setAttribute("aria-label", `${name}: most of ${strongest.join(", ")}`);
    canvas.title = name;
  }
}
