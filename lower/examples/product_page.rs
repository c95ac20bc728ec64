//! A page that times a matrix product in a browser: prints HTML that says how fast it is.
//!
//! `cargo run --release --package lmc-lower --example product_page 256 > product.html`
//!
//! The page has `window.product`: its `run()` computes `out = a b` once, of square matrices that are arrays of f32. So
//! another library's product can be timed in the same page, between these.

use lmc_graph::ops::DotGeneral;
use lmc_graph::{Builder, DType, TensorType};
use lmc_lower::wasm::{Entry, Mode, lower};

/// Rounds of at least `ROUND_MS` each: browsers' clocks tick every tenth of a millisecond.
const SCRIPT: &str = r#"
const ROUNDS = 40, ROUND_MS = 20;
const { exports } = new WebAssembly.Instance(new WebAssembly.Module(new Uint8Array(BYTES)));
const matrix = (offset) => new Float32Array(exports.memory.buffer, offset, SIZE * SIZE);
const [a, b, out] = OFFSETS.map(matrix);
for (let i = 0; i < SIZE * SIZE; i++) [a[i], b[i]] = [((i * 7) % 13) / 13 - 0.5, ((i * 5) % 11) / 11 - 0.5];
window.product = { a, b, out, run: exports.product };
/** GFLOP/s of each round of a function that computes the product, in ascending order. */
window.rates = async (run, rounds = ROUNDS) => {
  const found = [];
  let calls = 1;
  while (found.length < rounds) {
    const start = performance.now();
    for (let i = 0; i < calls; i++) await run();
    const ms = performance.now() - start;
    if (ms < ROUND_MS) calls = Math.ceil(calls * Math.min(10, (1.2 * ROUND_MS) / Math.max(ms, 1)));
    else found.push((2 * SIZE ** 3 * calls) / ms / 1e6);
  }
  return found.sort((x, y) => x - y);
};
rates(product.run).then((found) => {
  const [median, best] = [found[ROUNDS / 2], found.at(-1)].map((rate) => rate.toFixed(1));
  document.body.textContent = `${SIZE} x ${SIZE} x ${SIZE}: median ${median}, best ${best} GFLOP/s`;
});
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let size: usize = std::env::args().nth(1).as_deref().unwrap_or("256").parse()?;
    let func = Builder::build("product", |builder| {
        let [a, b] = ["a", "b"].map(|name| builder.param(name, TensorType::new(DType::F32, [size, size])));
        let op = DotGeneral {
            lhs_batching_dimensions: vec![],
            rhs_batching_dimensions: vec![],
            lhs_contracting_dimensions: vec![1],
            rhs_contracting_dimensions: vec![0],
            result_dtype: DType::F32,
        };
        vec![a.dot_general(b, op)]
    });
    let [inputs, results] = [vec!["a", "b"], vec!["out"]].map(|names| names.into_iter().map(Into::into).collect());
    let module = lower(&[Entry { name: "product".into(), func: &func, inputs, results }], Mode::Together)?;
    let offsets = ["a", "b", "out"].map(|name| module.layout.tensor(name).map(|tensor| tensor.offset));
    let offsets: Vec<usize> = offsets.into_iter().flatten().collect();
    println!(
        "<!doctype html><meta charset=\"utf-8\"><title>A product</title><body>timing …<script>\n\
         const SIZE = {size}, OFFSETS = {offsets:?}, BYTES = {:?};{SCRIPT}</script>",
        module.bytes
    );
    Ok(())
}
