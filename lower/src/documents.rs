//! How documents in packed rows are told to cuDNN, as functions of the graph: `lower` writes their nodes before the call.
//!
//! cuDNN takes the `B * M` places for documents of a batch as one list, in which those that are not empty come first. It
//! knows of each its length and where its first element lies in the tensor, and keeps the log-sum-exp by document.

use lmc_graph::ops::{Gather, SortDirection};
use lmc_graph::{Builder, DType, Func, Literal, TensorType, Value};

/// From `bounds`, `i32 B (M + 1)`, of rows of `length` positions: the lengths of all documents, `i32 B M`, and where they
/// begin among all positions of the batch, `i32 B (M + 1)`, both in cuDNN's order. Behind the last document the lengths
/// are 0 and the beginnings the number of positions. The beginnings are multiplied with each of `elements`, the elements
/// of a position in a tensor, for one result each.
pub(crate) fn list(bounds: &TensorType, length: usize, elements: &[usize]) -> Func {
    let (b, places) = (bounds.shape[0], bounds.shape[1] - 1);
    Builder::build("documents", |builder| {
        let bounds = within_rows(builder.param("bounds", bounds.clone()), length);
        let (begins, lengths) = of_rows(bounds);
        let rows = builder.iota(&begins.ty(), 0) * length as f64;
        let (begins, lengths) = ((begins + rows).reshape(&[b * places]), lengths.reshape(&[b * places]));
        // A sort by whether a document is empty keeps the others in order.
        let is_empty = lengths.equal(lengths.full_like(0.0)).convert(DType::I32);
        let end = begins.full_like((b * length) as f64);
        let begins = is_empty.greater(is_empty.full_like(0.0)).select(end, begins);
        let (_, lengths) = is_empty.sort_by_key(lengths, 0, SortDirection::Ascending);
        let (_, begins) = is_empty.sort_by_key(begins, 0, SortDirection::Ascending);
        let rest = builder.full(&TensorType::new(DType::I32, [b]), (b * length) as f64);
        let begins = builder.concatenate(&[begins, rest], 0).reshape(&[b, places + 1]);
        let scaled = elements.iter().map(|&elements| begins * elements as f64);
        std::iter::once(lengths.reshape(&[b, places])).chain(scaled).collect()
    })
}

/// From `bounds` and the log-sum-exp by document, `f32 (B M) N T`, that of each position, `f32 B N T`. Where no document
/// is, it has no meaning.
pub(crate) fn to_positions(bounds: &TensorType, by_document: &TensorType) -> Func {
    let &[_, n, t] = &by_document.shape[..] else { panic!("expected three dimensions, found {by_document}") };
    let (b, places) = (bounds.shape[0], bounds.shape[1] - 1);
    Builder::build("to_positions", |builder| {
        let bounds = within_rows(builder.param("bounds", bounds.clone()), t);
        let by_document = builder.param("by_document", by_document.clone());
        let (begins, lengths) = of_rows(bounds);
        // The place in cuDNN's order is the number of documents before that are not empty.
        let counts = lengths.greater(lengths.full_like(0.0)).convert(DType::I32).reshape(&[b * places]);
        let order = (counts.cumulative_sum(0) - counts).reshape(&[b, places]);
        let positions = builder.iota(&TensorType::new(DType::I32, [b, t, places]), 1);
        let [begins_along, ends_along, order] =
            [begins, begins + lengths, order].map(|x| x.broadcast_in_dim(&[b, t, places], &[0, 2]));
        let inside = begins_along.less_equal(positions).and(positions.less(ends_along));
        // A position is inside of one document at most.
        let [first, document] = [begins_along, order].map(|x| inside.select(x, x.full_like(0.0)).sum(&[2]));
        let within = builder.iota(&TensorType::new(DType::I32, [b, t]), 1) - first;
        vec![take(by_document, [document, within], n)]
    })
}

/// The reverse of [`to_positions`]: the log-sum-exp by document from that of each position, of which `list` says in
/// cuDNN's order where documents begin, `i32 B (M + 1)`, in elements of one for each position.
pub(crate) fn to_documents(begins: &TensorType, by_position: &TensorType) -> Func {
    let &[b, n, t] = &by_position.shape[..] else { panic!("expected three dimensions, found {by_position}") };
    let places = begins.shape[1] - 1;
    Builder::build("to_documents", |builder| {
        let begins = builder.param("begins", begins.clone()).reshape(&[b * (places + 1)]).slice_dim(0, 0..b * places);
        let by_position = builder.param("by_position", by_position.clone());
        let length = begins.full_like(t as f64);
        let row = begins / length;
        let first = begins - row * length;
        let shape = [b * places, t];
        let (row, first) = (row.broadcast_in_dim(&shape, &[0]), first.broadcast_in_dim(&shape, &[0]));
        let position = first + builder.iota(&TensorType::new(DType::I32, shape), 1);
        vec![take(by_position, [row, position], n)]
    })
}

/// Bounds limited to the row.
fn within_rows(bounds: Value<'_>, length: usize) -> Value<'_> {
    let limit = |x: f64| bounds.builder().constant(Literal::scalar(x as i32));
    bounds.clamp(limit(0.0), limit(length as f64))
}

/// Where the documents of each row begin, and their lengths.
fn of_rows<'g>(bounds: Value<'g>) -> (Value<'g>, Value<'g>) {
    let [_, n] = bounds.dims();
    let (begins, ends) = (bounds.slice_dim(1, 0..n - 1), bounds.slice_dim(1, 1..n));
    (begins, (ends - begins).maximum(begins.full_like(0.0)))
}

/// `x[i, :, j]` for indices `i` and `j` of shape `P Q`, from `x` of `.. N ..`: `P N Q`.
fn take<'g>(x: Value<'g>, [i, j]: [Value<'g>; 2], n: usize) -> Value<'g> {
    let [p, q] = i.dims();
    let indices = i.builder().concatenate(&[i.reshape(&[p, q, 1]), j.reshape(&[p, q, 1])], 2);
    let attributes = Gather {
        offset_dims: vec![1],
        collapsed_slice_dims: vec![0, 2],
        operand_batching_dims: vec![],
        start_indices_batching_dims: vec![],
        start_index_map: vec![0, 2],
        index_vector_dim: 2,
        slice_sizes: vec![1, n, 1],
        indices_are_sorted: false,
    };
    x.gather(indices, attributes)
}

#[cfg(test)]
mod tests {
    use lmc_graph::{eval, verify};

    use super::*;

    fn run(func: &Func, args: &[Literal]) -> Vec<Literal> {
        verify(func).unwrap_or_else(|errors| panic!("{errors}\n{func}"));
        eval(func, args).expect("the arguments fit")
    }

    /// Two rows of 8 positions with up to 3 documents: one of 2 and one of 3 behind padding; none and one of 4.
    fn bounds() -> Literal {
        Literal::new([2, 4], &[1_i32, 3, 3, 6, 2, 2, 2, 6])
    }

    #[test]
    fn documents_are_listed_without_those_that_are_empty() {
        let bounds = bounds();
        let found = run(&list(bounds.ty(), 8, &[1, 12]), &[bounds]);
        let ints: Vec<Vec<i32>> = found.iter().map(Literal::elements).collect();
        assert_eq!(ints[0], [2, 3, 4, 0, 0, 0]);
        assert_eq!(ints[1], [1, 3, 10, 16, 16, 16, 16, 16]);
        assert_eq!(ints[2], ints[1].iter().map(|begin| begin * 12).collect::<Vec<_>>());
        assert_eq!(found[1].ty().to_string(), "i32[2,4]");
        // What is out of order or out of the row is made harmless.
        let wild = Literal::new([1, 3], &[-5_i32, 99, 4]);
        let found: Vec<Vec<i32>> = run(&list(wild.ty(), 8, &[1]), &[wild]).iter().map(Literal::elements).collect();
        assert_eq!(found, [vec![8, 0], vec![0, 8, 8]]);
    }

    #[test]
    fn the_log_sum_exp_goes_there_and_back() {
        let bounds = bounds();
        // Two heads; each element tells its row, head and position: 1000 b + 100 n + t.
        let ty = TensorType::new(DType::F32, [2, 2, 8]);
        let number = |i: usize| (1000 * (i / 16) + 100 * (i / 8 % 2) + i % 8) as f64;
        let by_position = Literal::from_f64s(ty.clone(), &(0..32).map(number).collect::<Vec<_>>());
        let listed = run(&list(bounds.ty(), 8, &[1]), std::slice::from_ref(&bounds));
        let by_document = run(&to_documents(listed[1].ty(), &ty), &[listed[1].clone(), by_position]).remove(0);
        assert_eq!(by_document.ty().to_string(), "f32[6,2,8]");
        let elements: Vec<f32> = by_document.elements();
        // The third document is the second row's, from its position 2 on; the first one's second head.
        assert_eq!(elements[2 * 16..][..4], [1002.0, 1003.0, 1004.0, 1005.0]);
        assert_eq!(elements[8..10], [101.0, 102.0]);
        let back = run(&to_positions(bounds.ty(), by_document.ty()), &[bounds, by_document]).remove(0);
        assert_eq!(back.ty(), &ty);
        let back: Vec<f32> = back.elements();
        for (b, t) in (1..6).map(|t| (0, t)).chain((2..6).map(|t| (1, t))) {
            for n in 0..2 {
                assert_eq!(f64::from(back[(b * 2 + n) * 8 + t]), number((b * 2 + n) * 8 + t), "{b} {n} {t}");
            }
        }
    }
}
