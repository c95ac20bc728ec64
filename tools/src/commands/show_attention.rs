//! `lmc attention`.

use super::pretrained::load_model;
use crate::cli::AttentionArgs;
use crate::error::{Error, Result};
use crate::output::print;
use crate::pretrained::write_attention;

pub(super) fn run(args: AttentionArgs) -> Result<()> {
    let model = load_model(&args.folder, &args.model, &args.plugin)?;
    let tokenizer = model.tokenizer()?;
    let tokens = tokenizer.encode_beginning(&args.text)?;
    if tokens.is_empty() {
        return Err(Error::input("the text has no tokens: give a --text"));
    }
    let layers = if args.layers.is_empty() { (0..model.architecture().layers().len()).collect() } else { args.layers };
    let shown = model.inspect_attention(&tokens, &layers)?;
    let labels: Vec<String> = tokens.iter().map(|&token| tokenizer.decode(&[token.cast_signed()])).collect();
    for path in write_attention(&shown, &args.heads, &labels, &args.out)? {
        print(&format!("{}\n", path.display()))?;
    }
    Ok(())
}
