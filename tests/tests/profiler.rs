//! The profiler of the CUDA plugin where there is no GPU: it starts, stops and gives a record that is read, and the programs
//! that are made for it compile. What it records of kernels is not seen here.
//!
//! It needs the CUDA plugin with NVIDIA's libraries, more than a gigabyte, which `lmc plugin install cuda13` fetches;
//! where it is not installed the tests are listed as ignored.

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::Failed;
use lmc::device::{compile_options, profiler_options};
use lmc::inspect::hlo::Module;
use lmc::profile::timeline;
use lmc::profile::xplane::XSpace;
use lmc_runtime::{Plugin, Profiler, ProfilerOptions};
use lmc_tests::described::{self, compile_described, gpu};

fn main() -> ExitCode {
    described::main(
        &[
            ("a_record_is_made_and_read", a_record_is_made_and_read),
            ("one_records_at_a_time", one_records_at_a_time),
            ("programs_for_profiles_compile", programs_for_profiles_compile),
        ],
        Vec::new(),
    )
}

/// One test at a time may record.
static RECORDING: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn record(plugin: &Plugin, options: ProfilerOptions) -> Result<Vec<u8>, Failed> {
    Ok(Profiler::start(plugin, options)?.stop()?)
}

fn a_record_is_made_and_read(plugin: &Path) -> Result<(), Failed> {
    let _one = RECORDING.lock();
    let plugin = Plugin::load(plugin)?;
    Profiler::check(&plugin)?;
    // Where there is no GPU there is nothing to record but the names of programs, of which none has run.
    let bytes = record(&plugin, ProfilerOptions { devices: true, programs: true })?;
    let space = XSpace::read(&bytes)?;
    let names: Vec<&str> = space.planes.iter().map(|plane| &*plane.name).collect();
    assert!(names.contains(&"/host:metadata"), "{names:?} in {bytes:?}");
    assert_eq!(space.errors, Vec::<String>::new());
    // Again in the same process.
    let bytes = record(&plugin, ProfilerOptions { devices: true, programs: false })?;
    let space = XSpace::read(&bytes)?;
    let module =
        Module::parse("HloModule m\n\nENTRY %main (x: f32[]) -> f32[] {\n  ROOT %x = f32[] parameter(0)\n}\n")?;
    let refused = timeline(&space, &module).err();
    if !space.planes.iter().any(|plane| plane.name.starts_with("/device:GPU:")) {
        let expected = "expected events on streams of a GPU, found";
        assert!(refused.as_ref().is_some_and(|error| error.contains(expected)), "{refused:?}");
    }
    Ok(())
}

fn one_records_at_a_time(plugin: &Path) -> Result<(), Failed> {
    let _one = RECORDING.lock();
    let plugin = Plugin::load(plugin)?;
    let options = ProfilerOptions { devices: true, programs: false };
    let first = Profiler::start(&plugin, options)?;
    let refused = Profiler::start(&plugin, options).err().ok_or("a second one started")?;
    assert!(refused.to_string().contains("records already"), "{refused}");
    drop(first);
    record(&plugin, options)?;
    Ok(())
}

fn programs_for_profiles_compile(plugin: &Path) -> Result<(), Failed> {
    let gpu = gpu("h200");
    let text = "module @m {
  func.func @main(%a: tensor<256x256xf32>) -> tensor<256x256xf32> {
    %0 = stablehlo.dot_general %a, %a, contracting_dims = [1] x [0] : (tensor<256x256xf32>, tensor<256x256xf32>) -> tensor<256x256xf32>
    %1 = stablehlo.tanh %0 : tensor<256x256xf32>
    return %1 : tensor<256x256xf32>
  }
}";
    let options = profiler_options(compile_options(&gpu.target()), &gpu.target());
    let program = compile_described(plugin, gpu.description, text, &options, false)?;
    assert!(!program.thunks.contains("kCommandBuffer"), "{}", program.thunks);
    // XLA says what it does not know: the option is one that it does.
    let unknown = options.with("xla_gpu_no_such_option", 1_i64);
    assert!(compile_described(plugin, gpu.description, text, &unknown, false).is_err());
    Ok(())
}
