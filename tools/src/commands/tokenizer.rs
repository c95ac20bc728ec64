//! `lmc tokenizer`.

use std::fs;

use serde_json::json;

use super::tokenize::reading;
use crate::cli::{SplitArg, TokenizerCommand, TrainTokenizerArgs};
use crate::corpus::{Documents, Progress, Skipped};
use crate::error::{Error, Result};
use crate::output::{group_digits, print, print_json, say};
use crate::run::replace_file;
use crate::tokenizer::Pattern;
use crate::tokenizer::train::{Training, WordCounts};

pub(super) fn run(command: TokenizerCommand) -> Result<()> {
    match command {
        TokenizerCommand::Train(args) => train(args),
    }
}

fn train(args: TrainTokenizerArgs) -> Result<()> {
    let pattern = match args.split {
        SplitArg::Gpt2 => Pattern::Gpt2,
        SplitArg::Llama3 => Pattern::Llama3,
        SplitArg::Qwen2 => Pattern::Qwen2,
    };
    let training = Training {
        vocab_size: args.vocab_size,
        pattern,
        special_tokens: args.special_tokens,
        min_frequency: args.min_frequency,
    };
    training.check()?;
    let path = &args.output;
    if path.is_dir() {
        return Err(Error::input(format!("{} is a folder; name the file to write", path.display())));
    }
    if path.exists() && !args.force {
        return Err(Error::input(format!("{} exists; --force writes over it", path.display())));
    }
    // Words do not depend on where documents end, so a text may be of any size.
    let reading = reading(&args.input, Documents::Running)?;
    let mut progress = Progress::of_bytes("counting words", reading.inputs.iter().map(|input| input.bytes).sum());
    let (mut skipped, mut bytes) = (Skipped::default(), 0);
    let counts = reading.for_each(
        &mut progress,
        WordCounts::default,
        |counts, chunk| {
            let mut bytes = 0;
            let skipped = chunk.texts(&reading, |text| {
                counts.add(text, pattern);
                bytes += text.len() as u64;
                Ok(())
            })?;
            Ok((skipped, bytes))
        },
        |(other, count), progress| {
            skipped.add(other);
            bytes += count;
            progress.update(bytes, "bytes of text");
            Ok(())
        },
    );
    progress.finish();
    let mut words = WordCounts::default();
    counts?.into_iter().for_each(|counts| words.merge(counts));
    if let Some(first) = &skipped.first {
        let count = group_digits(skipped.invalid);
        say(format_args!("warning: passed over {count} invalid documents, the first: {first}"));
    }
    if words.is_empty() {
        return Err(Error::input("the inputs have no text to train on"));
    }
    let (distinct, counted) = (words.len(), progress.seconds());
    let mut merging = Progress::of_items("merging", args.vocab_size as u64);
    let trained = training.train(words, |tokens| merging.made(tokens as u64, "tokens"))?;
    merging.finish();
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|error| Error::cannot_write("the folder", folder, &error))?;
    }
    replace_file(path, trained.json.as_bytes()).map_err(|error| Error::cannot_write("the tokenizer", path, &error))?;
    let (seconds, vocab_size) = (progress.seconds(), trained.vocab_size);
    if vocab_size < args.vocab_size {
        say(format_args!(
            "warning: the text has pairs for {} tokens only, of {}",
            group_digits(vocab_size as u64),
            group_digits(args.vocab_size as u64)
        ));
    }
    if args.json {
        return print_json(&json!({
            "vocab_size": vocab_size, "text_bytes": bytes, "distinct_words": distinct,
            "invalid_documents": skipped.invalid, "count_seconds": counted, "seconds": seconds,
        }));
    }
    print(&format!(
        "{} tokens from {} bytes of text with {} distinct words, in {seconds:.2} s ({counted:.2} s to count)\n",
        group_digits(vocab_size as u64),
        group_digits(bytes),
        group_digits(distinct as u64),
    ))
}
