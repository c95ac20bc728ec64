//! `lmc gradcheck`.

use clap::Args;

use crate::cli::ConfigArgs;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::gradcheck::{TOLERANCE, gradcheck};
use crate::output::{print, print_json};

/// Check the derivative of a config's model against central differences, on a small copy; exit 1 if it is wrong
///
/// The copy has the architecture, the loops, chunks and recomputation of the config, and small sizes. It is evaluated in
/// float64 by the reference evaluator; no device and no data are needed.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc gradcheck examples/lm-100m.toml")]
pub struct GradcheckArgs {
    /// The config.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: GradcheckArgs) -> Result<()> {
    let config = Config::read(&args.config.config, &args.config.set)?;
    let checked = gradcheck(&config)?;
    if args.json {
        print_json(&serde_json::to_value(&checked).map_err(|error| Error::run(format!("as JSON: {error}")))?)?;
    } else {
        let width = checked.tensors.iter().map(|tensor| tensor.path.len()).max().unwrap_or(0);
        let mut text = format!("{}; loss {:.4}\n", checked.model, checked.loss);
        for tensor in &checked.tensors {
            let verdict = if tensor.error <= TOLERANCE { "" } else { "  WRONG" };
            text += &format!(
                "{:width$}  derivative {:>13.6e}, central difference {:>13.6e}, error {:.1e}{verdict}\n",
                tensor.path, tensor.derivative, tensor.difference, tensor.error,
            );
        }
        print(&text)?;
    }
    let wrong = checked.wrong();
    match wrong.first() {
        None => Ok(()),
        Some(first) => {
            let (path, of) = (&first.path, checked.tensors.len());
            Err(Error::run(format!("the derivative is wrong by {} of {of} parameters, first by `{path}`", wrong.len())))
        }
    }
}
