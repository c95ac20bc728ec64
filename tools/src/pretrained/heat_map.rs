//! What attention sees, as files: safetensors, and a picture a head.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use super::AttentionOf;
use crate::checkpoint::{Tensors, write_safetensors};
use crate::error::{Error, Result};

impl AttentionOf {
    /// The number of query heads.
    pub fn heads(&self) -> usize {
        self.weights.ty().shape[0]
    }

    /// A picture of one head, as SVG: a row for each token that looks, a column for each that is looked at, the darker the
    /// more. `labels` are the tokens' texts; a title tells the three of a cell.
    ///
    /// # Panics
    /// If the head is none of the layer's, or there are not as many labels as tokens.
    pub fn heat_map(&self, head: usize, labels: &[String]) -> String {
        let shape = &self.weights.ty().shape;
        let (heads, tokens) = (shape[0], shape[1]);
        assert!(head < heads && labels.len() == tokens, "head {head} of {heads}, {} labels", labels.len());
        let weights: Vec<f32> = self.weights.elements();
        let weights = &weights[head * tokens * tokens..(head + 1) * tokens * tokens];
        const CELL: usize = 12;
        const MARGIN: usize = 90;
        let size = MARGIN + tokens * CELL + CELL;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {size} {size}\" font-family=\"sans-serif\" \
             font-size=\"9\">\n<rect width=\"{size}\" height=\"{size}\" fill=\"#fff\"/>\n\
             <text x=\"4\" y=\"12\">layer {}, head {head}</text>\n",
            self.layer
        );
        let place = |i: usize| MARGIN + i * CELL;
        for (i, label) in labels.iter().enumerate() {
            let (label, middle) = (escaped(label), place(i) + CELL - 3);
            // Writing to a string does not fail.
            _ = writeln!(svg, "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{label}</text>", MARGIN - 4);
            _ = writeln!(svg, "<text transform=\"translate({middle},{}) rotate(-60)\">{label}</text>", MARGIN - 4);
        }
        for (query, row) in weights.chunks_exact(tokens).enumerate() {
            for (key, &weight) in row.iter().enumerate().filter(|&(key, _)| key <= query) {
                let shade = (255.0 * (1.0 - weight.clamp(0.0, 1.0))).round() as u8;
                _ = writeln!(
                    svg,
                    "<rect x=\"{}\" y=\"{}\" width=\"{CELL}\" height=\"{CELL}\" fill=\"rgb({shade},{shade},255)\">\
                     <title>{} sees {}: {weight:.4}</title></rect>",
                    place(key),
                    place(query),
                    escaped(&labels[query]),
                    escaped(&labels[key])
                );
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Text as it stands in SVG: without what has a meaning there, and with spaces and line breaks to be seen.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            ' ' => escaped.push('·'),
            '\n' => escaped.push('⏎'),
            character if character.is_control() => escaped.push('\u{FFFD}'),
            character => escaped.push(character),
        }
    }
    escaped
}

/// Writes `attention.safetensors`, with `layers.N.keys` and `layers.N.weights`, and `layer-N-head-M.svg` for each of `heads`
/// (all, if it is empty), into a folder that is made if need be; returns the paths.
///
/// # Errors
/// If a head is none of the model's, or something cannot be written.
pub fn write_attention(
    shown: &[AttentionOf],
    heads: &[usize],
    labels: &[String],
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    let count = shown.first().map_or(0, AttentionOf::heads);
    if let Some(head) = heads.iter().find(|&&head| head >= count) {
        return Err(Error::input(format!("the model has {count} query heads, from 0 on, and {head} was asked for")));
    }
    let heads = if heads.is_empty() { (0..count).collect() } else { heads.to_vec() };
    fs::create_dir_all(folder).map_err(|error| Error::cannot_write("the folder", folder, &error))?;
    let mut tensors = Tensors::new();
    for attention in shown {
        let AttentionOf { layer, keys, weights } = attention;
        tensors.insert(format!("layers.{layer}.keys"), keys.clone());
        tensors.insert(format!("layers.{layer}.weights"), weights.clone());
    }
    let path = folder.join("attention.safetensors");
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(&path)?);
        write_safetensors(&tensors, &mut file)?;
        file.flush()
    };
    write().map_err(|error| Error::cannot_write("attention", &path, &error))?;
    let mut paths = vec![path];
    for attention in shown {
        for &head in &heads {
            let path = folder.join(format!("layer-{}-head-{head}.svg", attention.layer));
            fs::write(&path, attention.heat_map(head, labels))
                .map_err(|error| Error::cannot_write("a picture", &path, &error))?;
            paths.push(path);
        }
    }
    Ok(paths)
}
