//! `lmc data lint`.

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use super::shown;
use crate::cli::DataLintArgs;
use crate::config::Config;
use crate::data::lint::{Expected, FileReport, Finding, Input, Report, inputs, lint};
use crate::error::{Error, Result};
use crate::output::{group_digits, print, print_json};

pub(super) fn run(args: DataLintArgs) -> Result<()> {
    let (files, expected) = what(&args)?;
    let sizes = files.iter().filter_map(|input| std::fs::metadata(&input.path).ok());
    let bar = ProgressBar::new(sizes.map(|metadata| metadata.len()).sum());
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
    bar.set_style(style.map_err(|error| Error::run(error.to_string()))?);
    let report = lint(&files, &expected, &mut |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    if args.json {
        let json = serde_json::to_value(&report);
        print_json(&json.map_err(|error| Error::run(format!("the report cannot be written as JSON: {error}")))?)?;
    } else {
        print(&text(&report))?;
    }
    match report.count() {
        (0, _) => Ok(()),
        (1, _) => Err(Error::input("1 error was found in the data")),
        (errors, _) => Err(Error::input(format!("{errors} errors were found in the data"))),
    }
}

/// The files to look at, and what is known of them.
fn what(args: &DataLintArgs) -> Result<(Vec<Input>, Expected)> {
    let is_config = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "toml");
    if let [path] = args.paths.as_slice()
        && is_config(path)
    {
        if args.lines || args.vocab_size.is_some() || args.end_of_document.is_some() || args.token_dtype.is_some() {
            return Err(Error::input(
                "a config tells what its files are; change it with --set, as --set data.documents=lines",
            ));
        }
        let config = Config::read(path, &args.set)?;
        return Ok((inputs(&config)?, Expected::from_config(&config)?));
    }
    if let Some(config) = args.paths.iter().find(|path| is_config(path)) {
        return Err(Error::input(format!("give either one config or files; {} is a config", config.display())));
    }
    if !args.set.is_empty() {
        return Err(Error::input("--set changes a config, and there is none"));
    }
    let mut files = Vec::new();
    for path in &args.paths {
        let metadata = std::fs::metadata(path).map_err(|error| Error::cannot_read("the data", path, &error))?;
        match metadata.is_dir() {
            true => files.extend(shards_in(path)?),
            false => files.push(Input { path: path.clone(), shard: is_shard(path) }),
        }
    }
    let expected = Expected {
        vocab_size: args.vocab_size,
        end_of_document: args.end_of_document,
        token_dtype: args.token_dtype,
        tokens: None,
        lines: args.lines,
    };
    Ok((files, expected))
}

fn is_shard(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "bin")
}

/// The token shards in a folder, sorted.
fn shards_in(folder: &Path) -> Result<Vec<Input>> {
    let fail = |error| Error::cannot_read("the folder", folder, &error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if is_shard(&path) {
            files.push(Input { path, shard: true });
        }
    }
    if files.is_empty() {
        return Err(Error::input(format!("the folder {} has no shards, *.bin; name its files", folder.display())));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for file in &report.files {
        text += &format!("{}: {}\n", shown(&file.path), describe(file));
        text += &findings(&file.findings);
    }
    text += &format!("\n{} files", group_digits(report.files.len() as u64));
    if report.tokens > 0 {
        text += &format!(", {} tokens", group_digits(report.tokens));
    }
    if report.documents > 0 {
        let about = if report.duplicates_estimated { "about " } else { "" };
        let duplicates = group_digits(report.duplicates);
        text += &format!(", {} documents, {about}{duplicates} of them copies", group_digits(report.documents));
    }
    if let Some(bytes) = report.bytes_per_token {
        text += &format!(", {bytes:.2} bytes a token");
    }
    text.push('\n');
    text += &findings(&report.findings);
    if !report.frequent.is_empty() {
        let one = |frequent: &crate::data::lint::Frequent| {
            let text = frequent.text.as_ref().map_or_else(String::new, |text| format!(" {text:?}"));
            format!("{}{text} {:.2} %", frequent.id, frequent.share * 100.0)
        };
        let list: Vec<String> = report.frequent.iter().map(one).collect();
        text += &format!("most frequent ids: {}\n", list.join(", "));
    }
    let (errors, warnings) = report.count();
    text + &format!("{errors} errors, {warnings} warnings\n")
}

fn describe(file: &FileReport) -> String {
    let mut parts = vec![file.kind.to_owned()];
    parts.extend(file.dtype.map(|dtype| dtype.to_string()));
    parts.extend(file.header.then(|| "header of 256 words".to_owned()));
    parts.push(format!("{} bytes", group_digits(file.bytes)));
    parts.extend(file.tokens.map(|tokens| format!("{} tokens", group_digits(tokens))));
    parts.extend(file.documents.map(|documents| format!("{} documents", group_digits(documents))));
    parts.extend(file.longest.map(|longest| {
        let (unit, place) = match (file.dtype.is_some(), file.tokens.is_some()) {
            (true, _) => ("tokens", "token"),
            (false, true) => ("tokens", "line"),
            (false, false) => ("bytes", "line"),
        };
        format!("the longest of {} {unit} at {place} {}", group_digits(longest.length), group_digits(longest.at))
    }));
    parts.join(", ")
}

fn findings(findings: &[Finding]) -> String {
    let line =
        |finding: &Finding| format!("  {}: {}\n", if finding.error { "error" } else { "warning" }, finding.message);
    findings.iter().map(line).collect()
}
