//! Compiling for an H200 without one: what comes out, and what wrong inputs are told.
//!
//! It needs the CUDA plugin with NVIDIA's libraries, more than a gigabyte, which `lmc plugin install cuda13` fetches;
//! where it is not installed the tests are listed as ignored.

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::Failed;
use lmc_runtime::CompileOptions;
use lmc_runtime::deviceless::{Described, DevicelessError};
use lmc_tests::described::{self, compile_described, gpu};

fn main() -> ExitCode {
    described::main(
        &[
            ("a_product", a_product),
            ("attention_has_its_plan", attention_has_its_plan),
            ("ptx_comes_when_asked_for", ptx_comes_when_asked_for),
            ("wrong_programs_are_told", wrong_programs_are_told),
            ("wrong_descriptions_are_told", wrong_descriptions_are_told),
        ],
        Vec::new(),
    )
}

fn compiled(plugin: &Path, target_config: &str, stablehlo: &str, ptx: bool) -> Result<Described, DevicelessError> {
    compile_described(plugin, target_config, stablehlo, &CompileOptions::default(), ptx)
}

/// An H200 in the words of the pinned plugin.
fn h200() -> &'static str {
    gpu("h200").description
}

/// A product of bf16 matrices, the first argument donated.
const PRODUCT: &str = "module @product {
  func.func @main(%a: tensor<256x256xbf16> {tf.aliasing_output = 0 : i32}, %b: tensor<256x256xbf16>) -> tensor<256x256xbf16> {
    %0 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : (tensor<256x256xbf16>, tensor<256x256xbf16>) -> tensor<256x256xbf16>
    %1 = stablehlo.tanh %0 : tensor<256x256xbf16>
    return %1 : tensor<256x256xbf16>
  }
}";

fn a_product(plugin: &Path) -> Result<(), Failed> {
    let program = compiled(plugin, h200(), PRODUCT, false)?;
    // A matrix of 256 x 256 in two bytes each.
    let matrix = 256 * 256 * 2;
    assert_eq!((program.memory.arguments, program.memory.outputs, program.memory.alias), (2 * matrix, matrix, matrix));
    assert!(program.memory.peak >= 2 * matrix, "{:?}", program.memory);
    assert!(program.optimized_hlo.starts_with("HloModule product"), "{}", program.optimized_hlo);
    assert!(program.optimized_hlo.contains("__cublas$"), "{}", program.optimized_hlo);
    assert!(program.thunks.contains("kCublasLtMatmul") || program.thunks.contains("kGemm"), "{}", program.thunks);
    assert!(!program.optimized_module.is_empty() && !program.serialized.is_empty() && !program.fingerprint.is_empty());
    assert!(program.ptx.is_empty());
    Ok(())
}

/// Causal attention of 4 heads on 2 of keys and values in bf16, `head` wide, for inference.
fn attention(head: usize) -> String {
    let dims = r#"\22lhs_contracting_dimensions\22:[3],\22rhs_contracting_dimensions\22:"#;
    let batch = r#"\22lhs_batch_dimensions\22:"#;
    let config = format!(
        r#"{{\22cudnn_fmha_backend_config\22:{{\22fmha_scale\22:0.125,\22mask_type\22:\22CAUSAL\22,\22bmm1_dot_dimension_numbers\22:{{{dims}[3],{batch}[0,2],\22rhs_batch_dimensions\22:[0,2]}},\22bmm2_dot_dimension_numbers\22:{{{dims}[1],{batch}[0,1],\22rhs_batch_dimensions\22:[0,2]}}}}}}"#
    );
    let q = format!("tensor<2x128x4x{head}xbf16>");
    let kv = format!("tensor<2x128x2x{head}xbf16>");
    let o = format!("tensor<2x4x128x{head}xbf16>");
    let row_major = "dense<[3, 2, 1, 0]> : tensor<4xindex>";
    format!(
        "module @attention {{
  func.func @main(%q: {q}, %k: {kv}, %v: {kv}) -> {o} {{
    %f:2 = stablehlo.custom_call @__cudnn$fmhaSoftmax(%q, %k, %v) {{api_version = 2 : i32, has_side_effect = false,
      backend_config = \"{config}\", operand_layouts = [{row_major}, {row_major}, {row_major}],
      result_layouts = [dense<[3, 1, 2, 0]> : tensor<4xindex>, dense<0> : tensor<1xindex>]
    }} : ({q}, {kv}, {kv}) -> ({o}, tensor<0xui8>)
    return %f#0 : {o}
  }}
}}"
    )
}

fn attention_has_its_plan(plugin: &Path) -> Result<(), Failed> {
    let program = compiled(plugin, h200(), &attention(64), false)?;
    let call = program.optimized_hlo.lines().find(|line| line.contains("__cudnn$fmhaSoftmax"));
    let call = call.ok_or_else(|| Failed::from(format!("no call:\n{}", program.optimized_hlo)))?;
    // What XLA leaves where cuDNN was not asked for a plan.
    assert!(!call.contains("u8[0]"), "{call}");
    assert!(program.thunks.contains("kCuDnn"), "{}", program.thunks);
    Ok(())
}

fn ptx_comes_when_asked_for(plugin: &Path) -> Result<(), Failed> {
    let program = compiled(plugin, h200(), PRODUCT, true)?;
    assert!(program.ptx.values().any(|text| text.contains(".target sm_90a")), "{:?}", program.ptx.keys());
    Ok(())
}

/// Compiles what is refused, and looks for parts of the message.
fn check(plugin: &Path, target_config: &str, stablehlo: &str, expected: &[&str]) {
    let message = match compiled(plugin, target_config, stablehlo, false) {
        Ok(_) => panic!("compiled: {stablehlo}"),
        Err(error) => error.to_string(),
    };
    for part in expected {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn wrong_programs_are_told(plugin: &Path) -> Result<(), Failed> {
    let located = "loc(\"mlp/up\"(\"src/model.rs\":10:3))";
    let wrong_type = PRODUCT.replace(
        "%1 = stablehlo.tanh %0 : tensor<256x256xbf16>",
        &format!("%1 = stablehlo.tanh %0 : tensor<9xbf16> {located}"),
    );
    check(plugin, h200(), &wrong_type, &["XLA cannot compile `product`", located]);
    check(plugin, h200(), &attention(20), &["XLA cannot compile `attention`", "multiple of 8"]);
    check(plugin, h200(), &attention(64).replace("fmhaSoftmax(", "fmhaSoftMax("), &["fmhaSoftMax"]);
    check(plugin, h200(), "module @m {}", &["no `func.func @main(`"]);
    Ok(())
}

fn wrong_descriptions_are_told(plugin: &Path) -> Result<(), Failed> {
    let unknown = format!("{}\nno_such_field: 1", h200());
    check(
        plugin,
        &unknown,
        PRODUCT,
        &["XLA does not take the description of the GPU", "belong to a version of the plugin"],
    );
    // XLA divides by what is missing here.
    check(plugin, "platform_name: \"CUDA\"", PRODUCT, &["signal 8 (SIGFPE)", "lacks numbers"]);
    check(Path::new("/no/plugin.so"), h200(), PRODUCT, &["/no/plugin.so: no such file"]);
    Ok(())
}
