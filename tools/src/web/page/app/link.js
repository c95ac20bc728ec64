/** What the address says after `#`: what makes the run, and what is looked at. */
const DEFAULT_RATE = 57;

function readLink(presets) {
  const given = new URLSearchParams(location.hash.slice(1));
  const preset = presets.find(({ name }) => name === given.get("size")) ?? presets[0];
  const number = (key, least, most, otherwise) => {
    const value = Number(given.get(key));
    return given.has(key) && value >= least && value <= most ? value : otherwise;
  };
  const seed = /^\d{1,20}$/.test(given.get("seed") ?? "") && BigInt(given.get("seed")) < 2n ** 63n;
  return {
    preset,
    seed: seed ? BigInt(given.get("seed")).toString() : preset.seed,
    rate: number("speed", 0, 100, DEFAULT_RATE),
    temperature: number("temperature", 0, 1.5, preset.sample.temperature),
    prompt: (given.get("after") ?? preset.sample.prompt).slice(0, 200),
  };
}

/** Only what is not as it would be without. */
function writeLink({ preset, seed, rate, temperature, prompt }, presets) {
  const said = new URLSearchParams();
  if (preset !== presets[0]) said.set("size", preset.name);
  if (seed !== preset.seed) said.set("seed", seed);
  if (rate !== DEFAULT_RATE) said.set("speed", rate);
  if (temperature !== preset.sample.temperature) said.set("temperature", temperature);
  if (prompt !== preset.sample.prompt) said.set("after", prompt);
  const hash = said.toString();
  history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
}

/** Steps a second of a place of the slider: from 2, in round numbers, and at its end as many as there can be. */
const rateOf = (place) =>
  place >= 100 ? Infinity : Number((2 * 10 ** (place / 33.5)).toPrecision(place < 60 ? 1 : 2));
