"use strict";
// The values under the pointer. Without this script the plots are the same, and the numbers are in tables.
for (const figure of document.querySelectorAll("figure")) {
  const data = figure.querySelector("script[type='application/json']");
  const svg = figure.querySelector("svg");
  if (!data || !svg) continue;
  const plot = JSON.parse(data.textContent);
  if (!plot || plot.places.length === 0) continue;
  const rule = document.createElement("div");
  const tip = document.createElement("div");
  rule.className = "rule";
  tip.className = "tip";
  rule.hidden = tip.hidden = true;
  figure.append(rule, tip);
  const leave = () => { rule.hidden = tip.hidden = true; };
  const move = (event) => {
    const box = svg.getBoundingClientRect();
    const scale = box.width / plot.width;
    const at = (event.clientX - box.left) / scale;
    let nearest = 0;
    plot.places.forEach((place, i) => {
      if (Math.abs(place - at) < Math.abs(plot.places[nearest] - at)) nearest = i;
    });
    tip.replaceChildren();
    const line = (text, color) => {
      const row = document.createElement("div");
      if (color !== undefined) {
        const key = document.createElement("i");
        key.className = "b" + color;
        row.append(key);
      }
      row.append(text);
      tip.append(row);
    };
    line(plot.x_label + " " + plot.x[nearest]);
    for (const series of plot.series) {
      const value = series.y[nearest];
      if (value !== null) line(series.name + "  " + value, series.color);
    }
    rule.hidden = tip.hidden = false;
    const x = plot.places[nearest] * scale;
    rule.style.left = x + "px";
    rule.style.top = plot.top * scale + "px";
    rule.style.height = (plot.bottom - plot.top) * scale + "px";
    // On the side where there is room.
    const side = x < box.width / 2 ? x + 12 : x - 12 - tip.offsetWidth;
    tip.style.left = Math.max(0, Math.min(side, box.width - tip.offsetWidth)) + "px";
    tip.style.top = Math.max(0, plot.top * scale - 8) + "px";
  };
  svg.addEventListener("pointermove", move);
  svg.addEventListener("pointerdown", move);
  svg.addEventListener("pointerleave", leave);
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
