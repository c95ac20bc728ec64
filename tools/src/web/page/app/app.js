/** The page: what the worker tells is shown, what people do is told to the worker. */
const { presets } = LMC;
const host = lmcWorker({});
const worker = new Worker(URL.createObjectURL(new Blob([`(${lmcWorker})(self)`], { type: "text/javascript" })));
const still = matchMedia("(prefers-reduced-motion: reduce)");
const state = {
  ...readLink(presets),
  texts: LMC.texts,
  running: true,
  step: 0,
  snapshots: [],
  labels: [],
  pausedByHiding: false,
};
const tell = (type, message = {}) => worker.postMessage({ type, ...message });
const view = (wanted) => tell("view", { wanted });

const chart = new LossChart(byId("loss-chart"), byId("loss-legend"));
const texts = new Texts(byId("written"), byId("key"), (text) => view({ read: (state.reading = text) }));
const bars = new NextBars(byId("bars"), (token) => {
  const label = state.characters?.[token];
  if (label === undefined) return;
  byId("prompt").value += label;
  changePrompt();
});
const maps = new AttentionMaps(byId("attention"));
const program = new Program(byId("boxes"), byId("details"), {
  watch: (tensors) => view({ tensors }),
  see: (value) => tell("see", { value }),
});

const lines = () => state.preset.settings.documents === "lines";
const say = (text) => (byId("said").textContent = text);

function complain(message) {
  byId("problem").textContent = message;
  byId("problem").hidden = message === "";
}

/** Puts the code of a size beside what is known of it, from a script of its own where it is not here yet. */
function load(preset) {
  const found = () => Object.assign(preset, LMC.code[preset.name]);
  if (LMC.code[preset.name]) return Promise.resolve(found());
  return new Promise((resolve, reject) => {
    const failed = () => reject(new Error(`The file size-${preset.name}.js is not beside the page.`));
    document.head.append(
      make("script", { src: `size-${preset.name}.js`, onload: () => resolve(found()), onerror: failed }),
    );
  });
}

/** Begins a run of the size, the seed and the text of the state. */
async function start() {
  try {
    const preset = await load(state.preset);
    // Another one may have been chosen in the meantime.
    if (preset === state.preset) begin();
  } catch (error) {
    complain(error.message);
  }
}

function begin() {
  const { preset, seed, rate, prompt, temperature } = state;
  complain("");
  Object.assign(state, { step: 0, snapshots: [], finished: false, looked: undefined, reading: null });
  const guessing = Math.log(preset.vocab_size);
  chart.restart(preset.steps, guessing, true);
  texts.restart(lines());
  tell("start", {
    preset,
    texts: state.texts,
    seed,
    running: state.running,
    rate: rateOf(rate),
    prompt,
    temperature,
    calm: still.matches,
  });
  describe();
  showTimeline();
  writeLink(state, presets);
  showProgram(preset);
}

/** What is there to be read about this size. */
function describe() {
  const { preset } = state;
  const things = lines() ? "names or words" : "text";
  byId("lead").textContent =
    `It has ${grouped(preset.parameters)} numbers and starts knowing nothing. Everything happens here, in this page.`;
  byId("inside-lead").textContent =
    "Each step is one program that lmc made of the model: forward, backward and the optimizer, " +
    `${grouped(preset.operations)} operations, compiled to WebAssembly.`;
  byId("text-help").textContent =
    `Any list of ${things}${lines() ? ", one a line" : ""}: choose a file, or drop it anywhere here. It stays on this device.`;
  byId("colophon").textContent =
    `Made by lmc ${LMC.version} from ${LMC.source}. No server, no network, nothing leaves this device.`;
}

let programOf = null;
async function showProgram(preset) {
  if (programOf === preset) return program.see();
  programOf = preset;
  const unpacked = JSON.parse(new TextDecoder().decode(await host.unpacked(preset.program)));
  if (programOf === preset) program.restart(unpacked, preset);
}

function showTimeline() {
  const { snapshots, step, preset, finished } = state;
  const past = byId("past");
  const live = state.snapshot == null;
  past.max = snapshots.length;
  if (live) past.value = snapshots.length;
  const shown = live ? step : snapshots[state.snapshot];
  byId("when").textContent = `step ${grouped(shown)}`;
  past.setAttribute("aria-valuetext", live ? `the present, step ${step}` : `step ${shown}`);
  const speed = state.stepMs ? `, ${duration(state.stepMs / 1000)} a step` : "";
  byId("state").textContent = live
    ? finished
      ? `done${speed}`
      : `of ${grouped(preset.steps)}${speed}`
    : `looking back; the present is ${grouped(step)}`;
  const play = byId("play");
  play.textContent = finished ? "Again" : state.running ? "Pause" : "Train";
  chart.mark(live ? null : shown);
}

function showRate() {
  const rate = rateOf(state.rate);
  const shown = rate === Infinity ? "as fast as it can" : `${grouped(rate)} steps a second`;
  byId("rate-shown").textContent = rate === Infinity ? shown : `${grouped(rate)} steps/s`;
  byId("rate").setAttribute("aria-valuetext", shown);
}

function showNext() {
  if (!state.looked) return;
  const probabilities = bars.show(state.looked.logits, state.temperature);
  return probabilities;
}

worker.onmessage = ({ data }) =>
  ({
    ready() {
      Object.assign(state, {
        labels: data.labels,
        characters: data.characters,
        tokenizer: data.tokenizer,
        documents: data.documents,
      });
      chart.hasHeldOut = data.held > 0;
      bars.restart(data.labels);
      maps.restart();
      document.documentElement.dataset.ready = Math.round(performance.now());
    },
    progress() {
      Object.assign(state, { step: data.step, snapshots: data.snapshots, stepMs: data.stepMs });
      chart.add(data.losses, data.heldOut);
      if (data.step > 0)
        byId("rates").textContent =
          `The loss, in nats a letter. Gradient norm ${data.gradientNorm.toPrecision(2)}, ` +
          `learning rate ${Number(data.learningRate.toPrecision(2))}.`;
      showTimeline();
    },
    view() {
      byId("prompt-note").textContent = data.look ? "" : "This has a letter that the model does not know.";
      if (data.texts) texts.show(data.texts, data.prompt);
      if (data.look) {
        state.looked = data.look;
        showNext();
      }
      if (data.read) {
        maps.show(data.read, state.labels, data.read.text);
        byId("attention-title").textContent = `Where it looks, reading “${data.read.text}”`;
      }
      program.show(data.tensors);
      document.documentElement.dataset.step = data.step;
    },
    value() {
      program.showValue(data);
    },
    timed() {
      program.showTimes(data.seconds);
      byId("time").disabled = false;
    },
    finished() {
      Object.assign(state, { running: false, finished: true });
      showTimeline();
      if (data.halted)
        complain("The loss is no longer a finite number: the run has stopped. Another seed or text may do better.");
      say(`Training is done after ${data.step} steps.`);
    },
    weights() {
      const metadata = {
        "lmc.config": state.preset.config.replace(/^seed = \d+$/m, `seed = ${state.seed}`),
        "lmc.tokenizer": state.tokenizer,
        "lmc.step": String(data.step),
      };
      save(toSafetensors(data.tensors, metadata), "model.safetensors");
      byId("weights-note").textContent = `Saved as of step ${grouped(data.step)}.`;
    },
    failed() {
      complain(data.message);
    },
  })[data.type]();
worker.onerror = (event) => complain(`The worker has failed: ${event.message}`);

function changePrompt() {
  state.prompt = byId("prompt").value;
  view({ prompt: state.prompt });
  writeLink(state, presets);
}

function setRunning(running) {
  state.running = running;
  if (running && state.finished) return start();
  tell("run", { running });
  showTimeline();
  say(running ? "Training." : `Paused at step ${state.step}.`);
}

byId("play").addEventListener("click", () => setRunning(!state.running));
byId("rate").addEventListener("input", (event) => {
  state.rate = Number(event.target.value);
  tell("pace", { rate: rateOf(state.rate) });
  showRate();
  writeLink(state, presets);
});
byId("past").addEventListener("input", (event) => {
  const at = Number(event.target.value);
  state.snapshot = at >= state.snapshots.length ? null : at;
  view({ snapshot: state.snapshot });
  showTimeline();
});
byId("temperature").addEventListener("input", (event) => {
  state.temperature = Number(event.target.value);
  showTemperature();
  showNext();
  view({ temperature: state.temperature });
  writeLink(state, presets);
});
byId("prompt").addEventListener("input", changePrompt);
byId("size").addEventListener("change", (event) => {
  const seedIsOwn = state.seed !== state.preset.seed;
  state.preset = presets[event.target.value];
  if (!seedIsOwn) state.seed = state.preset.seed;
  Object.assign(state, { running: true, snapshot: null });
  byId("seed").value = state.seed;
  start();
});
byId("seed").addEventListener("change", (event) => {
  const seed = event.target.value.trim();
  if (!/^\d{1,20}$/.test(seed) || BigInt(seed) >= 2n ** 63n)
    return complain("A seed is a whole number from 0 to 9223372036854775807.");
  Object.assign(state, { seed: BigInt(seed).toString(), running: true, snapshot: null });
  start();
});
byId("again").addEventListener("click", () => {
  Object.assign(state, { running: true, snapshot: null });
  start();
});
byId("time").addEventListener("click", (event) => {
  event.target.disabled = true;
  byId("time-note").textContent = "…";
  tell("time", { groups: program.groupNames() });
});
byId("download").addEventListener("click", () => tell("weights"));
byId("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    byId("copy-note").textContent = "Copied.";
  } catch {
    byId("copy-note").textContent = location.href;
  }
});

function showTemperature() {
  byId("temperature-shown").textContent = state.temperature.toFixed(2);
}

/** Trains on a text of one's own, made to fit the vocabulary. */
function useText(text, name) {
  const { settings, vocab_size } = state.preset;
  const fitted = host.fitted(text, settings.tokenizer, lines(), vocab_size);
  Object.assign(state, { texts: { train: fitted.text }, running: true, snapshot: null });
  const made = fitted.notes.length ? `, ${fitted.notes.join(", ")}` : "";
  byId("text-note").textContent = `Training on ${name}${made}.`;
  byId("own-text").hidden = false;
  state.prompt = byId("prompt").value = "";
  start();
}

function useWeights(buffer) {
  try {
    const { weights, metadata } = fromSafetensors(buffer, state.preset.weights);
    const saved = metadata["lmc.tokenizer"];
    if (saved && saved !== state.tokenizer)
      throw new Error("These weights were trained on a text with other characters; drop that text first.");
    byId("weights-note").textContent = "Loaded; training goes on from these weights.";
    Object.assign(state, { snapshot: null, finished: false, running: true });
    chart.restart(state.preset.steps, Math.log(state.preset.vocab_size), chart.hasHeldOut);
    tell("load", { weights });
    tell("run", { running: true });
  } catch (error) {
    byId("weights-note").textContent = error.message;
  }
}

async function useFile(file) {
  if (file.name.endsWith(".safetensors")) return useWeights(await file.arrayBuffer());
  if (file.size > 64e6)
    return void (byId("text-note").textContent = "The file has more than 64 MB; take a part of it.");
  useText(await file.text(), file.name);
}

for (const [button, input] of [
  ["choose-text", "text-file"],
  ["choose-weights", "weights-file"],
]) {
  byId(button).addEventListener("click", () => byId(input).click());
  byId(input).addEventListener("change", (event) => {
    if (event.target.files[0]) useFile(event.target.files[0]);
    event.target.value = "";
  });
}
byId("own-text").addEventListener("click", () => {
  Object.assign(state, { texts: LMC.texts, running: true, snapshot: null });
  byId("own-text").hidden = true;
  byId("text-note").textContent = "";
  start();
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files[0]) useFile(event.dataTransfer.files[0]);
});
// Nobody looks, so nothing is trained.
document.addEventListener("visibilitychange", () => {
  if (document.hidden && state.running) {
    state.pausedByHiding = true;
    tell("run", { running: false });
  } else if (!document.hidden && state.pausedByHiding) {
    state.pausedByHiding = false;
    if (state.running) tell("run", { running: true });
  }
});
addEventListener("hashchange", () => {
  Object.assign(state, readLink(presets), { running: true, snapshot: null });
  fillControls();
  start();
});

const dark = matchMedia("(prefers-color-scheme: dark)");
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  chart.draw();
}
setTheme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
byId("theme").addEventListener("click", () => {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  view({});
});

function fillControls() {
  byId("size").replaceChildren(...presets.map(({ label }, index) => make("option", { value: index }, label)));
  byId("size").value = presets.indexOf(state.preset);
  byId("seed").value = state.seed;
  byId("rate").value = state.rate;
  byId("temperature").value = state.temperature;
  byId("prompt").value = state.prompt;
  showRate();
  showTemperature();
}
byId("title").textContent = LMC.title;
fillControls();
start();
