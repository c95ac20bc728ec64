//! Documents in a row, which attention does not reach across.

use lmc_graph::ops::SortDirection;
use lmc_graph::{DType, TensorType, Value};

/// How documents are told apart in rows that hold several: as Megatron's `--reset-attention-mask` does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DocumentMask {
    /// The token that ends a document. It belongs to the document that it ends.
    pub end: i32,
    /// The places for documents in a row, from 2 to one more than its positions. Programs have fixed sizes: in a row of more
    /// documents the last place holds all of the rest, which see each other.
    pub places: usize,
}

impl DocumentMask {
    /// The bounds of documents in rows of tokens, `i32 B T → i32 B (M + 1)` with `M` places, as
    /// [`ScaledDotProductAttention`](lmc_graph::ops::ScaledDotProductAttention) takes them: 0, the positions behind end
    /// tokens, and `T` for all places that are left. Every position is in a document.
    ///
    /// # Panics
    /// If the places are not from 2 to `T + 1`.
    #[track_caller]
    pub fn bounds<'g>(&self, tokens: Value<'g>) -> Value<'g> {
        let ([b, t], builder) = (tokens.dims(), tokens.builder());
        let DocumentMask { end, places } = *self;
        assert!((2..=t + 1).contains(&places), "{places} places for documents in a row of {t} tokens");
        let behind = builder.iota(&tokens.ty(), 1) + 1.0;
        let is_end = tokens.equal(tokens.full_like(f64::from(end)));
        let bounds = is_end.select(behind, behind.full_like(t as f64)).sort(1, SortDirection::Ascending);
        let column = |position: usize| builder.full(&TensorType::new(DType::I32, [b, 1]), position as f64);
        builder.concatenate(&[column(0), bounds.slice_dim(1, 0..places - 1), column(t)], 1)
    }
}

/// Whether two of the `T` positions of each row are in one document: `i32 B (M + 1) → i1 B T T`.
///
/// # Panics
/// If the bounds are no such integers.
#[track_caller]
pub(crate) fn same_document(bounds: Value<'_>, t: usize) -> Value<'_> {
    let [b, count] = bounds.dims();
    let shape = [b, t, count];
    let positions = bounds.builder().iota(&TensorType::new(DType::I32, shape), 1);
    let begun = bounds.broadcast_in_dim(&shape, &[0, 2]).less_equal(positions);
    let document = begun.convert(DType::I32).sum(&[2]);
    let along = |dimension: usize| document.broadcast_in_dim(&[b, t, t], &[0, dimension]);
    along(1).equal(along(2))
}

#[cfg(test)]
mod tests {
    use lmc_graph::{Builder, Literal, eval};

    use super::*;

    /// The bounds in rows of 6 tokens of which 9 ends a document, and who sees whom as the attention says it that is
    /// composed: a line for each query.
    #[track_caller]
    fn check(tokens: [i32; 6], places: usize, bounds: &[i32], same: &str) {
        let func = Builder::build("f", |b| {
            let tokens = b.param("tokens", TensorType::new(DType::I32, [2, 6]));
            let bounds = DocumentMask { end: 9, places }.bounds(tokens);
            vec![bounds, same_document(bounds, 6).convert(DType::I32)]
        });
        // The second row is one document.
        let rows = [tokens, [1; 6]].concat();
        let found = eval(&func, &[Literal::new([2, 6], &rows)]).expect("the tokens fit");
        let found: Vec<Vec<i32>> = found.iter().map(Literal::elements).collect();
        let rest = vec![6; places];
        assert_eq!(found[0], [bounds, &[0][..], &rest].concat(), "{tokens:?}");
        let lines: Vec<String> =
            found[1][..36].chunks(6).map(|row| row.iter().map(ToString::to_string).collect()).collect();
        assert_eq!(lines.join(" "), same, "{tokens:?}");
        assert_eq!(found[1][36..], [1; 36], "{tokens:?}");
    }

    #[test]
    fn documents_end_behind_their_end() {
        let whole = ["111111"; 6].join(" ");
        check([1, 2, 3, 4, 5, 6], 3, &[0, 6, 6, 6], &whole);
        check([1, 2, 3, 4, 5, 9], 3, &[0, 6, 6, 6], &whole);
        check([1, 9, 3, 4, 5, 6], 3, &[0, 2, 6, 6], "110000 110000 001111 001111 001111 001111");
        // The first token ends a document, two ends follow each other, and the last document is cut.
        check([9, 1, 9, 9, 5, 6], 4, &[0, 1, 3, 4, 6], "100000 011000 011000 000100 000011 000011");
        // One place too few, and one for every position and one more.
        check([9, 1, 9, 9, 5, 6], 3, &[0, 1, 3, 6], "100000 011000 011000 000111 000111 000111");
        check([9; 6], 7, &[0, 1, 2, 3, 4, 5, 6, 6], "100000 010000 001000 000100 000010 000001");
    }
}
