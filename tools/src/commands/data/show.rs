//! `lmc data show`.

use std::io::IsTerminal as _;

use serde_json::json;

use super::row::Style;
use super::shown;
use crate::cli::DataShowArgs;
use crate::config::Config;
use crate::data::{Batch, Data, Origin, Place};
use crate::error::{Error, Result};
use crate::output::{print, print_json, say};

/// Places of a row that are told one by one.
const MOST_PLACES: usize = 6;

pub(super) fn run(args: DataShowArgs) -> Result<()> {
    let config = Config::read(&args.config.config, &args.config.set)?;
    let (_, data) = Data::open(&config, None)?;
    let shape = data.shape();
    let rows = if args.held_out { shape.micro_batch_size } else { shape.rows() };
    let Some(first) =
        args.step.checked_add(1).and_then(|end| end.checked_mul(rows as u64)).map(|end| end - rows as u64)
    else {
        return Err(Error::input(format!("--step {} is beyond the last row that can be numbered", args.step)));
    };
    let batch = match args.held_out {
        true => held_out_batch(&data, args.step)?,
        false => match data.batches(args.step..args.step + 1)?.next() {
            Some(batch) => batch?,
            None => return Err(Error::run("the data thread has made no batch")),
        },
    };
    let (tokens, labels) = (batch.tokens.elements::<i32>(), batch.labels.elements::<i32>());
    let colors = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let style = Style::new(data.tokenizer(), data.end_of_document(), colors && !args.json);
    let seq_len = shape.seq_len;
    for (row, (tokens, labels)) in (first..).zip(tokens.chunks(seq_len).zip(labels.chunks(seq_len))).take(args.rows) {
        let origin = match args.held_out {
            // The last micro-batch is filled up with rows of nothing.
            true if labels.iter().all(|&label| label < 0) => break,
            true => data.held_out_origin(row).ok_or_else(no_held_out)?,
            false => data.origin(row),
        };
        let text = style.text(tokens, labels);
        if args.json {
            print_json(&json!({
                "row": row,
                "source": origin.source,
                "epoch": origin.epoch,
                "places": origin.places.iter().map(place_json).collect::<Vec<_>>(),
                "tokens": tokens,
                "labels": labels,
                "text": data.tokenizer().map(|_| &text),
            }))?;
        } else {
            print(&format!("{}\n{text}\n\n", heading(row, &origin, args.held_out || data.sources(0).len() > 1)))?;
        }
    }
    if !args.json {
        let [before, after] = style.masked;
        say(format_args!(
            "{} {}: {} of {rows} rows of {seq_len} tokens; {} of all labels are predicted. {before}Not \
             predicted{after}: masked labels, padding. The first token of a row is only read.",
            if args.held_out { "evaluation's micro-batch" } else { "step" },
            args.step,
            args.rows.min(rows),
            batch.num_labels
        ));
    }
    Ok(())
}

/// A micro-batch of the evaluation, which goes once through what is held out.
fn held_out_batch(data: &Data, number: u64) -> Result<Batch> {
    let mut batches = data.held_out_batches(1, 0);
    let found = usize::try_from(number).ok().and_then(|number| batches.nth(number));
    found.unwrap_or_else(|| {
        let count = data.held_out_batches(1, 0).count();
        if count == 0 {
            return Err(no_held_out());
        }
        let message = format!("the held-out data have {count} micro-batches: --step is at most {}", count - 1);
        Err(Error::input(message))
    })
}

fn no_held_out() -> Error {
    Error::input("no data are held out: set data.val or data.val_fraction")
}

fn heading(row: u64, origin: &Origin, mixed: bool) -> String {
    let source = if mixed { format!(", source {}", origin.source) } else { String::new() };
    let told = origin.places.iter().take(MOST_PLACES).map(|place| match place {
        Place::Tokens { file, positions } => format!("{} tokens {}..{}", shown(file), positions.start, positions.end),
        Place::Line { file, line } => format!("{}:{line}", shown(file)),
    });
    let mut places = told.collect::<Vec<_>>().join(", ");
    if let Some(more) = origin.places.len().checked_sub(MOST_PLACES).filter(|&more| more > 0) {
        places += &format!(" and {more} more");
    }
    format!("row {row}{source}, epoch {}: {places}", origin.epoch)
}

fn place_json(place: &Place) -> serde_json::Value {
    match place {
        Place::Tokens { file, positions } => json!({ "file": file, "start": positions.start, "end": positions.end }),
        Place::Line { file, line } => json!({ "file": file, "line": line }),
    }
}
