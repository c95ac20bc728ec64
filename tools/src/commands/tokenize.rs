//! `lmc tokenize`.

use std::path::Path;
use std::thread::available_parallelism;

use serde_json::json;

use crate::cli::{DocumentsArg, InputArgs, InputFormat, ShardFormatArg, TokenizeArgs};
use crate::corpus::{Documents, Format, Progress, Reading, expand};
use crate::error::{Error, Result};
use crate::output::{group_digits, print, print_json, say};
use crate::tokenize::{HeldOut, Options, ShardFormat, tokenize};
use crate::tokenizer::Tokenizer;

pub(super) fn run(args: TokenizeArgs) -> Result<()> {
    let tokenizer = match args.tokenizer == Path::new("byte") && !args.tokenizer.exists() {
        true => Tokenizer::Byte,
        false => Tokenizer::read(&args.tokenizer)?,
    };
    let tokenizer = tokenizer.with_end_of_document(args.end_of_document.as_deref())?;
    let held_out = match (args.val_fraction, args.val_documents) {
        (Some(part), _) if !(0.0..1.0).contains(&part) => {
            return Err(Error::input(format!("--val-fraction must be at least 0 and less than 1, found {part}")));
        }
        (Some(part), _) => HeldOut::Fraction(part),
        (None, Some(count)) => HeldOut::Documents(count),
        (None, None) => HeldOut::None,
    };
    let documents = match args.documents {
        DocumentsArg::File => Documents::File,
        DocumentsArg::Lines => Documents::Lines,
        DocumentsArg::Paragraphs => Documents::Paragraphs,
    };
    let reading = reading(&args.input, documents)?;
    let mut progress = Progress::of_bytes("tokenizing", reading.inputs.iter().map(|input| input.bytes).sum());
    if let Tokenizer::HuggingFace(tokenizer) = &tokenizer {
        say(format_args!("encoding by {}", tokenizer.engine()));
    }
    let options = Options {
        reading,
        tokenizer,
        out: args.output,
        force: args.force,
        format: match args.format {
            ShardFormatArg::Header => ShardFormat::Header,
            ShardFormatArg::Raw => ShardFormat::Raw,
        },
        shard_tokens: u64::from(args.shard_tokens),
        held_out,
        seed: args.seed,
    };
    let summary = tokenize(&options, &mut progress);
    progress.finish();
    let summary = summary?;
    if let Some(first) = &summary.first_invalid {
        let count = group_digits(summary.invalid_documents);
        say(format_args!("warning: passed over {count} invalid documents, the first: {first}"));
    }
    if args.json {
        return print_json(&json!(summary));
    }
    print(&format!(
        "{} tokens of {} documents ({} tokens of {} held out) in {} shards of {}\n\
         {} bytes of text, {:.3} a token, in {:.2} s\n",
        group_digits(summary.tokens),
        group_digits(summary.documents),
        group_digits(summary.val_tokens),
        group_digits(summary.val_documents),
        group_digits(summary.shards as u64),
        summary.dtype,
        group_digits(summary.text_bytes),
        summary.bytes_per_token,
        summary.seconds,
    ))
}

/// What the arguments say about reading.
pub(super) fn reading(args: &InputArgs, documents: Documents) -> Result<Reading> {
    let format = args.input_format.map(|format| match format {
        InputFormat::Text => Format::Text,
        InputFormat::Jsonl => Format::JsonLines,
        InputFormat::Parquet => Format::Parquet,
    });
    Ok(Reading {
        inputs: expand(&args.inputs, format)?,
        documents,
        field: args.field.clone(),
        max_document_bytes: args.max_document_mb as usize * 1_000_000,
        skip_invalid: args.skip_invalid,
        threads: args.threads.map_or_else(|| available_parallelism().map_or(1, usize::from), usize::from),
    })
}
