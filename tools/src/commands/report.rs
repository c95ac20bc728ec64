//! `lmc report`.

use std::path::{Path, PathBuf};

use crate::cli::ReportArgs;
use crate::error::{Error, Result, reason};
use crate::output::{print, print_json};
use crate::run::replace_file;
use crate::run::report::{self, PAGE, RunRecord};

/// Where the comparison of several runs goes.
const COMPARISON: &str = "comparison.html";

pub(super) fn run(args: ReportArgs) -> Result<()> {
    let records: Vec<RunRecord> = args.runs.iter().map(|run| RunRecord::read(run)).collect::<Result<_>>()?;
    let written = write(&records, args.output.as_deref(), args.json)?;
    if args.json {
        for record in &records {
            let summary = serde_json::to_value(record.summary());
            print_json(&summary.map_err(|error| Error::run(format!("the numbers of a run: {error}")))?)?;
        }
        return Ok(());
    }
    written.map_or(Ok(()), |path| print(&format!("{}\n", path.display())))
}

/// Writes the page that was asked for, and returns where it is.
fn write(records: &[RunRecord], output: Option<&Path>, json: bool) -> Result<Option<PathBuf>> {
    let cannot = |path: &Path, error: &std::io::Error| {
        Error::input(format!("cannot write the report {}: {}", path.display(), reason(error)))
    };
    match (records, output) {
        (_, None) if json => Ok(None),
        ([record], None) => {
            // Its folder may be another user's, and then --output helps.
            report::write(&record.path, false)
                .map_err(|error| Error::input(format!("{}; name another file with --output", error.message())))?;
            Ok(Some(record.path.join(PAGE)))
        }
        (records, output) => {
            let path = output.unwrap_or(Path::new(COMPARISON));
            let page = match records {
                [record] => report::run_page(record),
                records => report::comparison_page(records),
            };
            replace_file(path, page.as_bytes()).map_err(|error| cannot(path, &error))?;
            Ok(Some(path.to_owned()))
        }
    }
}
