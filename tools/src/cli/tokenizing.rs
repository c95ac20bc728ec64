//! From text to token shards, and tokenizers.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// What a file of text is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DocumentsArg {
    /// The file is one document
    File,
    /// Every line is one
    Lines,
    /// They are separated by blank lines
    Paragraphs,
}

/// What files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InputFormat {
    /// Text
    Text,
    /// A JSON object a line
    Jsonl,
    /// Parquet
    Parquet,
}

/// The form of a token shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShardFormatArg {
    /// A header of 256 words (magic 20240520), then the ids, as llm.c reads
    Header,
    /// The ids alone
    Raw,
}

/// Files to read and how.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Reading")]
pub struct InputArgs {
    /// Files, folders or patterns ('*', '?', '[a-z]', '**'): text, JSON lines (.jsonl, .ndjson, .json), Parquet; text
    /// and JSON also as .gz or .zst
    #[arg(value_name = "INPUT", required = true)]
    pub inputs: Vec<PathBuf>,
    /// What the files hold [default: what their names say; text where they say nothing]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub input_format: Option<InputFormat>,
    /// The field of a JSON object, or the column of a Parquet file, that has the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub field: String,
    /// Refuse a document, or a line of JSON, that is longer; so much, and a few times that for its tokens, may have to be
    /// held in memory
    #[arg(long, value_name = "MB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=2048))]
    pub max_document_mb: u32,
    /// Pass over documents that cannot be read (broken JSON, no text, not UTF-8, too long), and count them
    #[arg(long)]
    pub skip_invalid: bool,
    /// Threads that work [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

/// Turn text into token shards
///
/// Writes train-00000.bin and so on, val-00000.bin and so on for what is held out, shards.json, which describes them, and
/// a copy of the tokenizer. Every document is followed by the document end; empty documents are passed over. Special
/// tokens that are spelt out in a text become these tokens, as with Hugging Face's encoder. The output is the same
/// whatever the number of threads.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  lmc tokenize 'books/*.jsonl.zst' --tokenizer tokenizer.json --val-fraction 0.01 -o shards"
)]
pub struct TokenizeArgs {
    /// What to read.
    #[command(flatten)]
    pub input: InputArgs,
    /// What a file of text is made of
    #[arg(long, value_enum, default_value_t = DocumentsArg::File, help_heading = "Reading")]
    pub documents: DocumentsArg,
    /// A tokenizer.json, or the word byte
    #[arg(long, value_name = "FILE")]
    pub tokenizer: PathBuf,
    /// The token that ends a document [default: the special token with a usual name for it]
    #[arg(long, value_name = "TOKEN")]
    pub end_of_document: Option<String>,
    /// The output folder
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// The form of a shard; ids have two bytes for a vocabulary of at most 65,536 tokens, else four
    #[arg(long, value_enum, default_value_t = ShardFormatArg::Header)]
    pub format: ShardFormatArg,
    /// A shard ends before the document that would bring it beyond this many tokens
    #[arg(long, value_name = "N", default_value_t = 100_000_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub shard_tokens: u32,
    /// Hold out about this part of the documents, drawn by their text and the seed
    #[arg(long, value_name = "PART")]
    pub val_fraction: Option<f64>,
    /// Hold out this many documents, drawn by their text and the seed; reads the inputs twice
    #[arg(long, value_name = "N", conflicts_with = "val_fraction")]
    pub val_documents: Option<u64>,
    /// Decides which documents are held out
    #[arg(long, default_value_t = 1337)]
    pub seed: u64,
    /// Put the new shards in place of those in the output folder
    #[arg(long)]
    pub force: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Make a tokenizer
#[derive(Debug, Subcommand)]
pub enum TokenizerCommand {
    /// Train a byte-level BPE
    Train(TrainTokenizerArgs),
}

/// How text is split into words before pairs are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SplitArg {
    /// GPT-2's regex: letters, numbers and the rest apart, each with at most one space before
    Gpt2,
    /// Llama 3's: numbers by three digits, line breaks with the marks before
    Llama3,
    /// Qwen2's: as Llama 3's, with single digits
    Qwen2,
}

/// Train a byte-level BPE
///
/// Writes a tokenizer.json that Hugging Face's libraries load. The same text gives the same tokenizer, whatever the
/// number of threads. Memory grows with the number of distinct words.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  lmc tokenizer train books.txt --vocab-size 32000 -o tokenizer.json")]
pub struct TrainTokenizerArgs {
    /// What to read.
    #[command(flatten)]
    pub input: InputArgs,
    /// The tokenizer.json to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Tokens of the tokenizer, special tokens and the 256 bytes included
    #[arg(long, value_name = "N", default_value_t = 32_000)]
    pub vocab_size: usize,
    /// How text is split into words before pairs are counted
    #[arg(long, value_enum, default_value_t = SplitArg::Llama3)]
    pub split: SplitArg,
    /// A special token, also given several times; they have the first ids
    #[arg(long = "special-token", value_name = "TOKEN", default_value = crate::tokenizer::END_OF_DOCUMENT)]
    pub special_tokens: Vec<String>,
    /// A pair must be met this often to become a token
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub min_frequency: u64,
    /// Write over the file that is there
    #[arg(long)]
    pub force: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
