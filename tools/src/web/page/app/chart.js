/** The loss over the steps: each step faintly, their running mean, held-out data, and what guessing would give. */
class LossChart {
  constructor(canvas, legend) {
    Object.assign(this, { canvas, legend });
    this.pointer = null;
    canvas.addEventListener("pointermove", (event) => this.point(event.offsetX));
    canvas.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  restart(steps, guessing, hasHeldOut) {
    Object.assign(this, { steps, guessing, hasHeldOut, losses: [], means: [], heldOut: [], marked: null });
    // Over about a fiftieth of the run.
    this.keep = 1 - 1 / Math.max(4, steps / 50);
    this.weight = 0;
    this.sum = 0;
  }

  add(losses, heldOut) {
    for (const loss of losses) {
      this.losses.push(loss);
      this.sum = this.keep * this.sum + (1 - this.keep) * loss;
      this.weight = this.keep * this.weight + (1 - this.keep);
      this.means.push(this.sum / this.weight);
    }
    if (heldOut) this.heldOut.push(heldOut);
    this.draw();
  }

  point(x) {
    this.pointer = x;
    this.draw();
  }

  /** The step of a snapshot that is looked at. */
  mark(step) {
    this.marked = step;
    this.draw();
  }

  draw() {
    if (!this.losses) return;
    const { context, width, height } = surface(this.canvas);
    if (width === 0) return;
    const [left, right, top, bottom] = [30, 6, 8, 22];
    const all = [...this.means, ...this.heldOut.map(({ loss }) => loss), this.guessing];
    const finite = all.filter(Number.isFinite);
    const [lowest, highest] = [Math.min(...finite.slice(-2000)), Math.max(...finite.slice(0, 2000))];
    const [from, to] = [Math.max(0, lowest - 0.15 * (highest - lowest) - 0.1), highest + 0.12];
    const x = (step) => left + (step / this.steps) * (width - left - right);
    const y = (loss) => top + ((to - loss) / (to - from)) * (height - top - bottom);
    context.font = "11px system-ui, sans-serif";
    context.lineWidth = 1;
    const distance = [0.1, 0.2, 0.5, 1, 2, 5, 10].find((distance) => (to - from) / distance <= 5) ?? 20;
    for (let loss = Math.ceil(from / distance) * distance; loss <= to; loss += distance) {
      context.strokeStyle = colours.of("rule");
      context.beginPath();
      context.moveTo(left, y(loss));
      context.lineTo(width - right, y(loss));
      context.stroke();
      context.fillStyle = colours.of("soft");
      context.fillText(loss.toFixed(distance < 1 ? 1 : 0), 4, y(loss) + 4);
    }
    context.textAlign = "center";
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      context.textAlign = share === 0 ? "left" : share === 1 ? "right" : "center";
      context.fillText(grouped(share * this.steps), x(share * this.steps), height - 6);
    }
    context.textAlign = "left";
    context.save();
    context.beginPath();
    context.rect(left, 0, width - left - right, height - bottom + 2);
    context.clip();
    this.line(
      context,
      [
        [0, this.guessing],
        [this.steps, this.guessing],
      ],
      x,
      y,
      "faint",
      1,
      [3, 4],
    );
    // Of the steps of a pixel the least and the greatest.
    context.fillStyle = colours.of("forward");
    context.globalAlpha = 0.22;
    const each = Math.max(1, Math.ceil(this.steps / (width - left - right)));
    for (let step = 0; step < this.losses.length; step += each) {
      const some = this.losses.slice(step, step + each);
      const [low, high] = [y(Math.min(...some)), y(Math.max(...some))];
      context.fillRect(x(step), high - 0.8, Math.max(1, x(each) - x(0)), Math.max(1.6, low - high));
    }
    context.globalAlpha = 1;
    this.line(
      context,
      this.means.map((loss, step) => [step + 1, loss]),
      x,
      y,
      "forward",
      2.2,
    );
    this.line(
      context,
      this.heldOut.map(({ step, loss }) => [step, loss]),
      x,
      y,
      "held",
      2,
    );
    const shown =
      this.pointer === null ? this.marked : Math.round(((this.pointer - left) / (width - left - right)) * this.steps);
    if (shown !== null)
      this.line(
        context,
        [
          [shown, from],
          [shown, to],
        ],
        x,
        y,
        "faint",
        1,
      );
    context.restore();
    this.explain(this.pointer === null ? this.losses.length : Math.max(0, Math.min(shown, this.losses.length)));
  }

  line(context, points, x, y, colour, width, dashes = []) {
    context.strokeStyle = colours.of(colour);
    context.lineWidth = width;
    context.lineJoin = "round";
    context.setLineDash(dashes);
    context.beginPath();
    // A line to each, or to as many as there are half pixels.
    const each = Math.max(1, Math.floor(points.length / 2400));
    for (let at = 0; at < points.length; at += each) context.lineTo(x(points[at][0]), y(points[at][1]));
    if (points.length) context.lineTo(x(points.at(-1)[0]), y(points.at(-1)[1]));
    context.stroke();
    context.setLineDash([]);
  }

  /** The numbers, in words that also stand for the drawing. */
  explain(step) {
    const mean = this.means[step - 1];
    const held = this.heldOut.findLast((point) => point.step <= step);
    const entry = (colour, name, value) =>
      make("span", {}, make("i", { style: `background:var(--${colour})` }), name + " ", make("b", {}, value));
    this.legend.replaceChildren(
      entry("forward", "training", mean === undefined ? "–" : mean.toFixed(2)),
      ...(this.hasHeldOut ? [entry("held", "held out", held ? held.loss.toFixed(2) : "–")] : []),
      entry("faint", "guessing", this.guessing.toFixed(2)),
    );
    const said =
      mean === undefined
        ? "no steps yet"
        : `training ${mean.toFixed(2)}${held ? `, held out ${held.loss.toFixed(2)}` : ""} after ${step} steps`;
    this.canvas.setAttribute(
      "aria-label",
      `The loss over the steps: ${said}; guessing has ${this.guessing.toFixed(2)}`,
    );
  }
}
