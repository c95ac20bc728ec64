//! `lmc check`.

use serde_json::json;

use crate::cli::CheckArgs;
use crate::config::Config;
use crate::data::Data;
use crate::error::Result;
use crate::memory::size;
use crate::model::{describe_init, initial_weights, step_config};
use crate::output::{group_digits, print, print_json, say};

pub(super) fn run(args: CheckArgs) -> Result<()> {
    let config = Config::read(&args.config.config, &args.config.set)?;
    let (config, data) = Data::open(&config, None)?;
    let step_config = step_config(&config)?;
    let loss = step_config.loss_func();
    if config.model.init_from().is_some() {
        initial_weights(&config, &loss.specs)?;
    }
    let optimizer = &step_config.update.optimizer;
    let count: usize = loss.specs.values().map(|spec| spec.ty.num_elements()).sum();
    let sources = data.sources(config.train.steps);
    data.warnings(config.train.steps).iter().for_each(|warning| say(format_args!("warning: {warning}")));
    let documents = match config.data.documents_per_row {
        Some(places) => data.most_documents_per_row()?.map(|(most, rows)| (places, most, rows)),
        None => None,
    };
    if let Some((places, most, _)) = documents.filter(|(places, most, _)| most > places) {
        say(format_args!(
            "warning: rows hold up to {most} documents, and the last of {places} places holds all of the rest, which see \
             each other: --set data.documents_per_row={most}"
        ));
    }
    let flops = step_config.model.flops_per_token(step_config.seq_len);
    if args.json {
        let parameters: Vec<_> = loss
            .specs
            .iter()
            .map(|(path, spec)| {
                let slots = optimizer.slots(spec);
                json!({ "path": path, "shape": spec.ty.shape, "decay": spec.decay, "slots": slots })
            })
            .collect();
        let sources: Vec<_> = sources
            .iter()
            .map(|s| json!({ "name": s.name, "share": s.share, "train_tokens": s.tokens, "epochs": s.epochs }))
            .collect();
        return print_json(&json!({
            "num_parameters": count,
            "vocab_size": config.model.vocab_size(),
            "train_tokens": data.train_tokens(),
            "held_out_tokens": data.held_out_tokens(),
            "tokens_per_step": config.tokens_per_step(),
            "sources": sources,
            "flops_per_token": flops,
            "most_documents_per_row": documents.map(|(_, most, _)| most),
            "parameters": parameters,
        }));
    }
    let width = loss.specs.keys().map(str::len).max().unwrap_or(0);
    let mut text = String::new();
    for (path, spec) in loss.specs.iter() {
        let (ty, init, slots) = (spec.ty.to_string(), describe_init(spec.init), optimizer.slots(spec).join(", "));
        let decay = if spec.decay { ", decays" } else { "" };
        text += &format!("{path:width$}  {ty:>16}  {init}{decay}; {slots}\n");
    }
    let slots: usize = loss.specs.values().map(|spec| spec.ty.num_elements() * optimizer.slots(spec).len()).sum();
    let averages = if step_config.update.ema_decay > 0.0 { count } else { 0 };
    text += &format!(
        "\n{} parameters, vocabulary {}; {} of weights, {} of optimizer state{}\n{} tokens to train on, {} held out\n\
         {} steps of {} tokens{}\n",
        group_digits(count as u64),
        config.model.vocab_size().map_or_else(String::new, |size| group_digits(size as u64)),
        size(4 * count as u128),
        size(4 * slots as u128),
        if averages > 0 { format!(", {} of averaged weights", size(4 * averages as u128)) } else { String::new() },
        group_digits(data.train_tokens()),
        group_digits(data.held_out_tokens()),
        group_digits(config.train.steps),
        group_digits(config.tokens_per_step() as u64),
        match sources.as_slice() {
            [only] => format!(", {:.1} epochs", only.epochs),
            _ => String::new(),
        },
    );
    let width = sources.iter().map(|source| source.name.chars().count()).max().unwrap_or(0);
    for source in sources.iter().filter(|_| sources.len() > 1) {
        let (name, percent, tokens) = (&source.name, source.share * 100.0, group_digits(source.tokens));
        text +=
            &format!("  {name:width$}  {percent:5.2} % of the rows, {tokens} tokens, {:.2} epochs\n", source.epochs);
    }
    if let Some((places, most, rows)) = documents {
        text += &format!(
            "attention within documents: at most {most} in one of the first {} rows, places for {places}\n",
            group_digits(rows)
        );
    }
    text += &format!("{flops:.3e} FLOPs a token in training\n");
    print(&text)
}
