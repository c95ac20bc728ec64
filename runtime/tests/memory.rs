//! Executions leave no memory behind. Alone in its process, as it looks at the memory of the whole process.

use lmc_graph::{Literal, TensorType};
use lmc_runtime::plugin::{Locations, find_or_install};
use lmc_runtime::{Argument, Client, ClientOptions, CompileOptions, Plugin, process_memory_bytes};

/// Executions that are counted.
const EXECUTIONS: usize = 40_000;

/// Executions before that, in which allocators and thread pools reach their size.
const WARM_UP: usize = 1_000;

/// What the process may grow by, in bytes: 25 an execution. The smallest object that could leak, an event, takes about
/// 50, and a buffer of the program 1 KiB.
const BOUND: u64 = 1_000_000;

#[test]
fn forty_thousand_executions_leave_nothing_behind() {
    let locations = Locations::from_environment(None).expect("a cache folder");
    let found = find_or_install("cpu", &locations, &mut |step| eprintln!("{step:?}")).expect("the CPU plugin");
    let plugin = Plugin::load(&found.path).expect("a plugin");
    let options = ClientOptions { cpu_device_count: Some(1), ..ClientOptions::default() };
    let client = Client::new(&plugin, &options).expect("a client");
    let text = "module @m {
      func.func @main(%state: tensor<256xf32> {tf.aliasing_output = 0 : i32}, %kept: tensor<256xf32>)
          -> (tensor<256xf32>, tensor<f32>) {
        %zero = stablehlo.constant dense<0.0> : tensor<f32>
        %sum = stablehlo.add %state, %kept : tensor<256xf32>
        %total = stablehlo.reduce(%sum init: %zero) applies stablehlo.add across dimensions = [0]
          : (tensor<256xf32>, tensor<f32>) -> tensor<f32>
        return %sum, %total : tensor<256xf32>, tensor<f32>
      }
    }";
    let program = client.compile(text, &CompileOptions::default()).expect("compiled");
    let ty = TensorType::new(lmc_graph::DType::F32, [256]);
    let kept = client.buffer(&Literal::new([256], &[1f32; 256])).expect("a buffer");
    let mut state = client.buffer(&Literal::zeros(ty.clone())).expect("a buffer");
    let mut before = 0;
    for step in 1..=WARM_UP + EXECUTIONS {
        let old = state;
        // Every third execution keeps the state and drops it afterwards, and reads a fresh buffer from the host.
        let mut outputs = if step % 3 == 0 {
            let ones = client.buffer(&Literal::new([256], &[1f32; 256])).expect("a buffer");
            program.execute(vec![Argument::Keep(&old), Argument::Donate(ones)])
        } else {
            program.execute(vec![Argument::Donate(old), Argument::Keep(&kept)])
        }
        .expect("executed");
        let total = outputs.pop().expect("two outputs");
        state = outputs.pop().expect("two outputs");
        // f32 counts to 2^24 exactly.
        assert_eq!(total.to_literal().expect("read").elements::<f32>(), [256. * step as f32]);
        // Failing calls leave nothing behind either.
        if step % 100 == 0 {
            assert!(client.compile("module { func.func @main() { x", &CompileOptions::default()).is_err());
        }
        if step == WARM_UP {
            before = process_memory_bytes().expect("known on Linux");
        }
    }
    let after = process_memory_bytes().expect("known on Linux");
    assert!(after < before + BOUND, "from {before} to {after} bytes");
}
