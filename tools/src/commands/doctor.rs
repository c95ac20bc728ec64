//! `lmc doctor`.

use lmc_runtime::plugin::{Locations, Search, cache_dir, find};
use lmc_runtime::{NamedValue, Plugin};
use serde_json::{Map, Value, json};

use crate::cli::DoctorArgs;
use crate::device::{Device, DeviceOptions, plugin_error};
use crate::error::{Error, Result};
use crate::output::{print, print_json};

/// Looks and reports; fetches nothing. A problem is told in the report, and is the error that the command ends with.
pub(super) fn run(args: DoctorArgs) -> Result<()> {
    let mut report = Map::new();
    report.insert("lmc".into(), json!(env!("CARGO_PKG_VERSION")));
    report.insert("machine".into(), json!(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    report.insert("cores".into(), json!(cores));
    let cache = cache_dir().map_or_else(|error| error.to_string(), |path| path.display().to_string());
    report.insert("cache".into(), json!(cache));
    let problem = examine(args.plugin.plugin.clone(), &mut report).err();
    if let Some(problem) = &problem {
        report.insert("problem".into(), json!(problem.message()));
    }
    if args.json {
        print_json(&Value::Object(report))?;
    } else {
        let width = report.keys().map(String::len).max().unwrap_or(0);
        // Texts without their quotation marks.
        let show = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let line = |(key, value): (&String, &Value)| format!("{key:width$}  {}\n", show(value));
        print(&report.iter().filter(|(key, _)| *key != "problem").map(line).collect::<String>())?;
    }
    match problem {
        Some(problem) => Err(problem),
        None if args.json => Ok(()),
        None => print("everything is in place\n"),
    }
}

/// Loads the plugin that would be used and opens its device.
fn examine(explicit: Option<std::path::PathBuf>, report: &mut Map<String, Value>) -> Result<()> {
    let locations = Locations::from_environment(explicit).map_err(|e| Error::input(e.to_string()))?;
    let named = locations.explicit.is_some() || locations.from_environment.is_some();
    let found = match find("cpu", &locations).map_err(|error| plugin_error(named, &error))? {
        Search::Found(found) => found,
        Search::NotFound { looked } => {
            return Err(Error::run(format!(
                "there is no PJRT plugin:\n  {}\n`lmc plugin install cpu` fetches one",
                looked.join("\n  ")
            )));
        }
    };
    report.insert("plugin".into(), json!(format!("{} ({})", found.path.display(), found.source)));
    let plugin = Plugin::load(&found.path).map_err(|error| plugin_error(named, &error))?;
    let (major, minor) = plugin.api_version();
    report.insert("pjrt".into(), json!(format!("{major}.{minor}")));
    for (name, value) in plugin.attributes() {
        report.insert(name.clone(), json!(describe(value)));
    }
    let options = DeviceOptions { plugin: Some(found.path), ..DeviceOptions::default() };
    let device = Device::open(&options)?;
    report.insert("platform".into(), json!(device.client().platform_name()));
    report.insert("device".into(), json!(device.client().device().debug_string()));
    Ok(())
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
