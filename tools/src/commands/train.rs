//! `lmc train`.

use crate::cli::{ConfigArgs, DeviceArgs, TrainArgs};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::training::{TrainOptions, train};

pub(super) fn run(args: TrainArgs) -> Result<()> {
    let TrainArgs { config: ConfigArgs { config, mut set }, fresh, accept_graph, steps, out, device, plugin } = args;
    if let Some(steps) = steps {
        set.push(format!("train.steps={steps}"));
    }
    if let Some(out) = out {
        let Some(out) = out.to_str() else {
            return Err(Error::input(format!("--out {}: the path must be UTF-8", out.display())));
        };
        set.push(format!("train.out_dir={}", toml::Value::from(out)));
    }
    let DeviceArgs { device } = device;
    if let Some(device) = device {
        set.push(format!("runtime.device={}", toml::Value::from(device)));
    }
    let config = Config::read(&config, &set)?;
    train(&config, &TrainOptions { fresh, accept_graph, stop_after: None, plugin: plugin.plugin })
}
