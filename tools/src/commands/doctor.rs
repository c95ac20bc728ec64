//! `lmc doctor`.

use lmc_graph::{Builder, DType, Func, TensorType};
use lmc_lower::lower;
use lmc_lower::report::{Form, Kind};
use lmc_models::layers::{Attention, causal_attention};
use lmc_runtime::NamedValue;
use lmc_runtime::gpu::{Gpu, GpuProblem, Libraries, Machine, Survey, libraries, survey};
use lmc_runtime::plugin::{Found, Locations, Search, cache_dir, find};
use serde_json::{Map, Value, json};

use crate::cli::DoctorArgs;
use crate::cuda;
use crate::device::{Device, DeviceOptions, plugin_error};
use crate::error::{Error, Result};
use crate::output::{print, print_json};

use super::attention;

/// Looks and reports; fetches nothing. A problem is told in the report, and is the error that the command ends with.
pub(super) fn run(args: DoctorArgs) -> Result<()> {
    let mut report = Map::new();
    report.insert("lmc".into(), json!(env!("CARGO_PKG_VERSION")));
    report.insert("machine".into(), json!(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    report.insert("cores".into(), json!(cores));
    let cache = cache_dir().map_or_else(|error| error.to_string(), |path| path.display().to_string());
    report.insert("cache".into(), json!(cache));
    let examined = examine(args.plugin.plugin.clone(), &mut report);
    let (device, mut problem) = match examined {
        Ok(device) => (Some(device), None),
        Err(problem) => (None, Some(problem)),
    };
    if !args.json {
        show(&report)?;
    }
    if let Some(device) = device.filter(|_| args.attention) {
        match attention::run(&device, args.json) {
            Ok(rows) => drop(report.insert("attention".into(), json!(rows))),
            Err(error) => problem = Some(error),
        }
    }
    if let Some(problem) = &problem {
        report.insert("problem".into(), json!(problem.message()));
    }
    if args.json {
        print_json(&Value::Object(report))?;
    }
    match problem {
        Some(problem) => Err(problem),
        None if args.json => Ok(()),
        None => print("everything is in place\n"),
    }
}

/// Prints a report, a line an entry.
fn show(report: &Map<String, Value>) -> Result<()> {
    let width = report.keys().map(String::len).max().unwrap_or(0);
    // Texts without their quotation marks.
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    // The items of a list below each other.
    let entry = |value: &Value| match value.as_array() {
        Some(items) => items.iter().map(text).collect::<Vec<_>>().join(&format!("\n{:width$}  ", "")),
        None => text(value),
    };
    print(&report.iter().map(|(key, value)| format!("{key:width$}  {}\n", entry(value))).collect::<String>())
}

/// Loads the plugin that would be used and opens its device.
fn examine(explicit: Option<std::path::PathBuf>, report: &mut Map<String, Value>) -> Result<Device> {
    let machine = Machine::this();
    let survey = survey(&machine);
    let locations = Locations::from_environment(explicit.clone()).map_err(|e| Error::input(e.to_string()))?;
    let named = locations.named().is_some();
    // A plugin that the user names is the one for GPUs if its name says so.
    let names_cuda = locations.named().is_some_and(cuda::is_cuda_plugin);
    let managed = Locations { explicit: None, from_environment: None, ..locations.clone() };
    let cuda = match find(cuda::PLUGIN, if names_cuda { &locations } else { &managed })
        .map_err(|error| plugin_error(false, &error))?
    {
        Search::Found(found) => Some(found),
        Search::NotFound { .. } => None,
    };
    let libraries = cuda.as_ref().map(|found| libraries(&found.path, &machine));
    report.extend(of_gpus(&survey));
    report.extend(of_libraries(&survey, cuda.as_ref(), libraries.as_ref()));
    let gpu = cuda.filter(|_| (!named || names_cuda) && survey.usable(0).is_ok());
    let found = match gpu {
        Some(found) => found,
        None => match find("cpu", &locations).map_err(|error| plugin_error(named, &error))? {
            Search::Found(found) => found,
            Search::NotFound { looked } => {
                return Err(Error::run(format!(
                    "there is no PJRT plugin:\n  {}\n`lmc plugin install cpu` fetches one",
                    looked.join("\n  ")
                )));
            }
        },
    };
    report.insert("plugin".into(), json!(format!("{} ({})", found.path.display(), found.source)));
    let device = Device::open(&DeviceOptions { plugin: explicit, ..DeviceOptions::default() })?;
    let client = device.plugin()?;
    let plugin = client.plugin();
    let (major, minor) = plugin.api_version();
    report.insert("pjrt".into(), json!(format!("{major}.{minor}")));
    for (name, value) in plugin.attributes() {
        report.insert(name.clone(), json!(describe(value)));
    }
    report.insert("platform".into(), json!(client.platform_name()));
    report.insert("device".into(), json!(client.device().debug_string()));
    Ok(device)
}

/// What the machine says of its GPUs.
fn of_gpus(survey: &Survey) -> Map<String, Value> {
    let mut rows = Map::new();
    if let Some(driver) = &survey.driver {
        rows.insert("driver".into(), json!(driver));
    }
    if let Some(path) = &survey.driver_library {
        rows.insert("driver_library".into(), json!(path.display().to_string()));
    }
    let gpus: Vec<String> = survey.gpus.iter().map(describe_gpu).collect();
    if !gpus.is_empty() {
        rows.insert("gpus".into(), json!(gpus));
    }
    let usable = match survey.usable(0) {
        Ok(Some(gpu)) => format!("{} can be used", gpu.name),
        Ok(None) => "one can be used; without nvidia-smi nothing tells of which kind".to_owned(),
        Err(GpuProblem::NoGpu) => "none".to_owned(),
        Err(problem) => format!("none can be used: {problem}"),
    };
    rows.insert("gpu".into(), json!(usable));
    rows
}

fn describe_gpu(gpu: &Gpu) -> String {
    let Gpu { index, name, memory_mib, used_mib, compute_capability } = gpu;
    let capability = compute_capability.as_deref().unwrap_or("unknown");
    format!("{index}: {name}, {memory_mib} MiB of memory, {used_mib} MiB taken, compute capability {capability}")
}

/// The plugin for GPUs and what is beside it.
fn of_libraries(survey: &Survey, found: Option<&Found>, libraries: Option<&Libraries>) -> Map<String, Value> {
    let mut rows = Map::new();
    let (Some(found), Some(libraries)) = (found, libraries) else {
        rows.insert("cuda_plugin".into(), json!(format!("not installed (`lmc plugin install {}`)", cuda::PLUGIN)));
        return rows;
    };
    let package = libraries.package.as_ref().map_or_else(String::new, |(name, version)| format!("{name} {version}, "));
    rows.insert("cuda_plugin".into(), json!(format!("{package}{} ({})", found.path.display(), found.source)));
    let version = match (&libraries.cudnn, libraries.cudnn_version) {
        (_, Some(version)) => version.to_string(),
        (Some(path), None) => format!("{}, of a version that no file tells", path.display()),
        (None, None) => "missing".to_owned(),
    };
    let fits = libraries.check().map_or_else(|problem| format!("; {problem}"), |()| String::new());
    rows.insert("cudnn".into(), json!(format!("{version}{fits}")));
    rows.insert("flash_attention".into(), json!(flash_attention(survey, libraries)));
    rows
}

/// Whether attention would be cuDNN's: what lowering does with one of bf16, which training in bfloat16 has.
fn flash_attention(survey: &Survey, libraries: &Libraries) -> String {
    let gpu = match survey.usable(0) {
        Ok(Some(gpu)) => gpu,
        Ok(None) => return "unknown: without nvidia-smi nothing tells the GPU's compute capability".to_owned(),
        Err(_) => return "no: there is no GPU to run it on".to_owned(),
    };
    let capability = gpu.compute_capability.as_deref().and_then(cuda::parse_capability);
    let Some(capability) = capability else {
        return "unknown: nvidia-smi does not tell the GPU's compute capability".to_owned();
    };
    if let Err(problem) = libraries.check() {
        return format!("no: {problem}");
    }
    let rows = lower(&sample(), &cuda::target_of(libraries, capability, false)).report.rows;
    let Some(row) = rows.iter().find(|row| row.kind == Kind::Attention) else {
        return "unknown: attention did not lower as such".to_owned();
    };
    match (row.form, &row.refused) {
        (Form::Cudnn, _) => format!("yes, in bfloat16: {}", row.form.name()),
        (_, Some(reason)) => format!("no: {reason}"),
        (form, None) => format!("no: {}", form.name()),
    }
}

/// A causal attention of bf16, of the sizes that GPT-2 has in a head.
fn sample() -> Func {
    Builder::build("attention", |b| {
        let ty = || TensorType::new(DType::BF16, [1, 1024, 12, 64]);
        let [q, k, v] = ["q", "k", "v"].map(|name| b.param(name, ty()));
        vec![causal_attention(q, k, v, &Attention::new(64))]
    })
}

/// A plugin's attribute as text.
fn describe(value: &NamedValue) -> String {
    match value {
        NamedValue::String(text) => text.clone(),
        NamedValue::Int64(number) => number.to_string(),
        NamedValue::Int64List(numbers) => numbers.iter().map(i64::to_string).collect::<Vec<_>>().join("."),
        NamedValue::Float(number) => number.to_string(),
        NamedValue::Bool(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use lmc_runtime::gpu::CudnnVersion;

    use super::*;

    /// A machine with this GPU.
    fn machine(name: &str, capability: Option<&str>) -> Survey {
        Survey {
            driver: Some("580.65.06".into()),
            driver_library: Some("/usr/lib64/libcuda.so.1".into()),
            nodes: vec!["/dev/nvidia0".into()],
            gpus: vec![Gpu {
                index: 0,
                name: name.into(),
                memory_mib: 143_771,
                used_mib: 4,
                compute_capability: capability.map(str::to_owned),
            }],
            ..Survey::default()
        }
    }

    /// The pinned plugin with a cuDNN of this version, everything in place.
    fn beside(minor: u32) -> Libraries {
        let file = || Some(PathBuf::from("/file"));
        Libraries {
            plugin: "/plugin.so".into(),
            package: Some(("jax-cuda13-pjrt".into(), "0.12.0.1".into())),
            cudnn: file(),
            cudnn_version: Some(CudnnVersion { major: 9, minor, patch: 1 }),
            cublas: file(),
            libdevice: file(),
            assembler: file(),
        }
    }

    #[test]
    fn flash_attention_is_what_lowering_does() {
        let check = |survey: &Survey, libraries: &Libraries, expected: &str| {
            let found = flash_attention(survey, libraries);
            assert!(found.starts_with(expected), "{found}");
        };
        let h200 = machine("NVIDIA H200", Some("9.0"));
        check(&h200, &beside(24), "yes, in bfloat16: attention, cuDNN");
        // What does not compile without a GPU runs on one.
        check(&h200, &beside(27), "yes, in bfloat16: attention, cuDNN");
        let old = Some(CudnnVersion { major: 8, minor: 9, patch: 7 });
        check(&h200, &Libraries { cudnn_version: old, ..beside(24) }, "no: the cuDNN beside");
        check(
            &h200,
            &Libraries { package: None, ..beside(24) },
            "no: decomposed: it is not known which plugin this is",
        );
        check(
            &machine("Tesla T4", Some("7.5")),
            &beside(24),
            "no: decomposed: cuDNN's attention needs compute capability 8.0",
        );
        check(&machine("NVIDIA H200", None), &beside(24), "unknown: nvidia-smi does not tell");
        check(&Survey::default(), &beside(24), "no: there is no GPU");
    }

    #[test]
    fn gpus_are_described() {
        let rows = of_gpus(&machine("NVIDIA H200", Some("9.0")));
        assert_eq!(rows["gpu"], "NVIDIA H200 can be used");
        let expected = "0: NVIDIA H200, 143771 MiB of memory, 4 MiB taken, compute capability 9.0";
        assert_eq!((&rows["gpus"][0], &rows["driver"]), (&json!(expected), &json!("580.65.06")));
        assert_eq!(of_gpus(&Survey::default())["gpu"], "none");
        let nodes = Survey { nodes: Vec::new(), ..machine("NVIDIA H200", None) };
        let text = of_gpus(&nodes)["gpu"].to_string();
        assert!(text.contains("none can be used: NVIDIA's driver 580.65.06 is loaded"), "{text}");
    }
}
