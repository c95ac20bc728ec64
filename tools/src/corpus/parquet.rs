//! A column of text in Parquet files.

use std::fs::File;

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::Reading;
use super::chunk::Chunk;
use super::inputs::{Compression, Input};
use super::progress::Counter;
use super::reader::Filling;
use crate::error::{Error, Result};

/// Rows that are read at once.
const ROWS: usize = 256;

/// Reads the column `reading.field`. Returns whether more is wanted.
pub(super) fn read(
    input: &Input,
    reading: &Reading,
    counter: &Counter,
    send: &mut dyn FnMut(Chunk) -> bool,
) -> Result<bool> {
    let path = &input.path;
    let fail = |reason: String| Error::input(format!("{} cannot be read as Parquet: {reason}", path.display()));
    if input.compression != Compression::None {
        return Err(fail("it is packed; Parquet files are compressed inside".to_owned()));
    }
    let broken = |error: ParquetError| {
        let text = error.to_string();
        fail(text.strip_prefix("Parquet error: ").unwrap_or(&text).to_owned())
    };
    let file = File::open(path).map_err(|error| Error::cannot_read("the input", path, &error))?;
    let file = guarded(|| SerializedFileReader::new(file)).map_err(broken)?;
    let schema = file.metadata().file_metadata().schema_descr();
    let (index, column) =
        schema.columns().iter().enumerate().find(|(_, column)| column.path().string() == reading.field).ok_or_else(
            || {
                let names: Vec<String> =
                    schema.columns().iter().take(20).map(|column| column.path().string()).collect();
                fail(format!("it has no column {:?}; its columns: {}; see --field", reading.field, names.join(", ")))
            },
        )?;
    check_column(column).map_err(|reason| fail(format!("the column {:?} {reason}", reading.field)))?;
    // A text is there at this level; below it, the text or what holds it is not.
    let present = column.max_def_level();
    let mut filling = Filling::new(input, "row", send);
    let mut number = 0;
    let groups = file.num_row_groups();
    for group in 0..groups {
        let metadata = file.metadata().row_group(group).column(index);
        let offsets = [metadata.data_page_offset(), metadata.dictionary_page_offset().unwrap_or(0)];
        if offsets.into_iter().chain([metadata.compressed_size()]).any(|number| number < 0) {
            return Err(fail("its pages have places below zero: the file is damaged".to_owned()));
        }
        let mut rows = guarded(|| {
            let group = file.get_row_group(group)?;
            Rows::open(group.as_ref(), index)
        })
        .map_err(broken)?;
        while filling.wanted() {
            guarded(|| rows.next(present > 0)).map_err(broken)?;
            if rows.levels.is_empty() {
                break;
            }
            let mut values = rows.values.iter();
            for &level in &rows.levels {
                number += 1;
                match (level == present).then(|| values.next()).flatten() {
                    None => filling.end_missing(number, "there is no text"),
                    Some(text) if text.len() > reading.max_document_bytes => {
                        filling.end_missing(number, "the document is longer than --max-document-mb");
                    }
                    Some(text) => {
                        filling.append(text.data());
                        filling.end(number);
                    }
                }
            }
        }
        counter.add(input.bytes / groups as u64);
    }
    Ok(filling.finish())
}

/// Runs what may panic on a damaged file, where the crate trusts what it reads, and makes that an error.
fn guarded<T>(run: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    // The error ends the reading of the file.
    crate::guarded::guarded(run)
        .unwrap_or_else(|reason| Err(ParquetError::General(format!("the file is damaged: {reason}"))))
}

fn check_column(column: &ColumnDescriptor) -> Result<(), String> {
    let ty = column.self_type().get_basic_info();
    let is_text = ty.logical_type_ref() == Some(&LogicalType::String) || ty.converted_type() == ConvertedType::UTF8;
    if column.physical_type() != PhysicalType::BYTE_ARRAY || !is_text {
        return Err(format!("holds {}, not text", column.physical_type()));
    }
    if column.max_rep_level() > 0 || ty.repetition() == Repetition::REPEATED {
        return Err("holds lists".to_owned());
    }
    Ok(())
}

/// The rows of a group, some at a time.
struct Rows {
    column: ColumnReaderImpl<ByteArrayType>,
    /// Texts, without rows that have none.
    values: Vec<ByteArray>,
    /// One a row: how much of the path to the text is there.
    levels: Vec<i16>,
}

impl Rows {
    fn open(group: &dyn RowGroupReader, index: usize) -> Result<Rows, ParquetError> {
        let ColumnReader::ByteArrayColumnReader(column) = group.get_column_reader(index)? else {
            return Err(ParquetError::General("the column's pages are not those of texts".to_owned()));
        };
        Ok(Rows { column, values: Vec::new(), levels: Vec::new() })
    }

    fn next(&mut self, optional: bool) -> Result<(), ParquetError> {
        self.values.clear();
        self.levels.clear();
        let levels = optional.then_some(&mut self.levels);
        let (rows, _, _) = self.column.read_records(ROWS, levels, None, &mut self.values)?;
        // Without levels every row has a text.
        self.levels.resize(rows, 0);
        Ok(())
    }
}
