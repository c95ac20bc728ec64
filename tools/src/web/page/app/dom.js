/** Small things: elements, numbers, colours. */
const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const grouped = (number) => Math.round(number).toLocaleString("en");

/** `1234567` as `1.23 M`. */
function short(number) {
  for (const [size, unit] of [
    [1e9, " G"],
    [1e6, " M"],
    [1e3, " k"],
  ])
    if (number >= size) return (number / size).toPrecision(3) + unit;
  return String(Math.round(number * 100) / 100);
}

/** Seconds, in a unit that fits. */
const duration = (seconds) =>
  seconds < 1e-3 ? `${Number((1e6 * seconds).toPrecision(3))} µs` : `${Number((1e3 * seconds).toPrecision(3))} ms`;

const percent = (share) => (share >= 0.0995 ? Math.round(100 * share) : (100 * share).toFixed(1)) + " %";

/** The colours of the theme, as numbers, read anew when it changes. */
const colours = {
  of(name) {
    const style = getComputedStyle(document.documentElement);
    return style.getPropertyValue("--" + name).trim();
  },
  rgb(name) {
    const hex = colours.of(name).slice(1);
    return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
  },
};

/**
 * Lets the arrow keys go through the elements of a group that match, of which only one is reached by the tab key; `moved` is
 * told to which.
 */
function withArrows(group, selector, moved = () => {}) {
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    const all = [...group.querySelectorAll(selector)];
    const at = all.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(all.length - 1, at + step));
    all.forEach((element, index) => (element.tabIndex = index === to ? 0 : -1));
    all[to].focus();
    moved(all[to]);
  });
}

/** A drawing surface of the size that the element has on the page, cleared; sizes are in CSS pixels. */
function surface(canvas) {
  const scale = Math.min(3, devicePixelRatio || 1);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** Draws rows of numbers, a cell each: from the paper to `high` for positive ones, to `low` for negative ones. */
function heatMap(canvas, rows, columns, elements, limit, cell) {
  canvas.width = columns;
  canvas.height = rows;
  canvas.style.width = columns * cell + "px";
  canvas.style.height = rows * cell + "px";
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const [paper, up, down] = ["raised", "high", "low"].map(colours.rgb);
  for (let at = 0; at < rows * columns; at++) {
    const share = Math.max(-1, Math.min(1, elements[at] / limit || 0));
    // The square root shows small values too.
    const [towards, weight] = [share < 0 ? down : up, Math.sqrt(Math.abs(share))];
    for (let channel = 0; channel < 3; channel++)
      image.data[4 * at + channel] = paper[channel] + weight * (towards[channel] - paper[channel]);
    image.data[4 * at + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}
