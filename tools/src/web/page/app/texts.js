/** What the model writes: names side by side, or paragraphs, those of the training text greyed. */
class Texts {
  constructor(list, key, choose) {
    Object.assign(this, { list, key, choose });
  }

  restart(lines) {
    this.lines = lines;
    this.list.classList.toggle("running", !lines);
    this.list.replaceChildren();
  }

  /** Changes what differs and leaves the rest alone, so that neither focus nor eyes lose their place. */
  show(texts, prompt) {
    while (this.list.children.length > texts.length) this.list.lastChild.remove();
    texts.forEach((text, index) => {
      let item = this.list.children[index];
      if (!item) {
        const button = make("button", {
          type: "button",
          title: "See how the model reads it",
          onclick: () => this.choose(item.dataset.text),
        });
        item = make("li", {}, button);
        this.list.append(item);
      }
      if (
        item.dataset.text === text.text &&
        item.dataset.prompt === prompt &&
        item.dataset.known === String(text.known)
      )
        return;
      Object.assign(item.dataset, { text: text.text, prompt, known: text.known });
      const button = item.firstChild;
      button.className = (text.known ? "known" : "") + (text.ended || !this.lines ? "" : " open");
      // A text may be empty, and a button must have a name.
      const rest = text.text === "" ? "–" : text.text.slice(prompt.length);
      button.replaceChildren(...(prompt ? [make("span", { class: "prompt" }, prompt)] : []), rest);
      if (text.known) button.append(make("span", { class: "hidden" }, ", known"));
    });
    if (!this.lines) return;
    const known = texts.filter((text) => text.known).length;
    this.key.textContent = `${texts.length - known} of ${texts.length} are its own; grey ones are in the list that it learns from.`;
  }
}

/** The probabilities of what comes next, as bars that can be chosen. */
class NextBars {
  constructor(group, append) {
    Object.assign(this, { group, append, bars: [] });
    withArrows(group, "button");
  }

  restart(labels) {
    this.labels = labels;
    this.shown = undefined;
  }

  /** As many of the likeliest as there is room for, in the order of the vocabulary. */
  show(logits, temperature) {
    const probabilities = softmax(logits, temperature);
    const most = 40;
    let tokens = Array.from(probabilities.keys());
    if (tokens.length > most)
      tokens = tokens
        .sort((a, b) => probabilities[b] - probabilities[a])
        .slice(0, most)
        .sort((a, b) => a - b);
    if (this.shown?.length !== tokens.length) {
      this.bars = tokens.map((_, index) => {
        const bar = make("button", { type: "button", tabindex: index ? -1 : 0 }, make("em"), make("i"), make("span"));
        bar.addEventListener("click", () => this.append(this.shown[index]));
        return bar;
      });
      this.group.replaceChildren(...this.bars);
    }
    this.shown = tokens;
    const best = Math.max(...probabilities);
    tokens.forEach((token, index) => {
      const [em, fill, label] = this.bars[index].children;
      const share = probabilities[token];
      fill.style.height =
        Math.max(0.5, ((82 * share ** 0.7) / Math.max(0.3, best) ** 0.7) * Math.min(1, Math.max(0.3, best) ** 0.25)) +
        "%";
      label.textContent = this.labels[token];
      em.textContent = percent(share);
      this.bars[index].classList.toggle("top", share === best);
      const name = this.labels[token] === "∎" ? "the end" : this.labels[token];
      this.bars[index].setAttribute("aria-label", `${name}, ${percent(share)}`);
    });
    return probabilities;
  }
}

/** Probabilities of logits at a temperature; at 0 the likeliest has all. */
function softmax(logits, temperature) {
  const highest = Math.max(...logits);
  const weights = Array.from(logits, (logit) =>
    temperature > 0 ? Math.exp((logit - highest) / temperature) : logit === highest ? 1 : 0,
  );
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}
