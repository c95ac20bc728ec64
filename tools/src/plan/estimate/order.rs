//! The orders in which compilers run the kernels of a block.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};

use super::fusion::Kernel;
use super::program::Value;

/// Which kernels wait for which.
struct Waiting {
    /// How many each waits for.
    waits_for: Vec<usize>,
    /// Those that wait for each.
    users: Vec<Vec<usize>>,
}

impl Waiting {
    fn of(kernels: &[Kernel<'_>]) -> Waiting {
        let mut place: HashMap<Value, usize> = HashMap::new();
        for (index, kernel) in kernels.iter().enumerate() {
            place.extend(kernel.results().map(|result| (result, index)));
        }
        let mut waits_for = vec![0; kernels.len()];
        let mut users: Vec<Vec<usize>> = vec![Vec::new(); kernels.len()];
        for (index, kernel) in kernels.iter().enumerate() {
            let needs = kernel.reads.iter().chain(&kernel.waits);
            let before: HashSet<usize> = needs.filter_map(|value| place.get(value).copied()).collect();
            waits_for[index] = before.len();
            before.into_iter().for_each(|before| users[before].push(index));
        }
        Waiting { waits_for, users }
    }

    fn ready(&self) -> impl Iterator<Item = usize> {
        self.waits_for.iter().enumerate().filter(|(_, count)| **count == 0).map(|(index, _)| index)
    }

    /// The kernels that wait for nothing more once this one has run.
    fn freed_by(&mut self, index: usize) -> Vec<usize> {
        let Waiting { waits_for, users } = self;
        users[index].iter().copied().for_each(|user| waits_for[user] -= 1);
        users[index].iter().copied().filter(|&user| waits_for[user] == 0).collect()
    }
}

/// The order in which each kernel runs as soon as those that it reads of have run.
pub(super) fn breadth_first(kernels: &[Kernel<'_>]) -> Vec<usize> {
    let mut waiting = Waiting::of(kernels);
    let mut ready: VecDeque<usize> = waiting.ready().collect();
    let mut order = Vec::with_capacity(kernels.len());
    while let Some(index) = ready.pop_front() {
        order.push(index);
        ready.extend(waiting.freed_by(index));
    }
    order
}

/// The order in which of all kernels that may run the one runs that frees most bytes, less what it writes and `wants`
/// beside that; of equal ones the one that more wait for, then the first of the program. So XLA's list scheduler has it.
/// What a block is given and what it returns (`results`) is never freed.
pub(super) fn freeing_most(
    kernels: &[Kernel<'_>],
    results: &[Value],
    wants: &[u64],
    bytes: impl Fn(Value) -> u64,
) -> Vec<usize> {
    let mut sizes: HashMap<Value, i128> = HashMap::new();
    let mut readers: HashMap<Value, usize> = HashMap::new();
    for kernel in kernels {
        sizes.extend(kernel.results().map(|result| (result, i128::from(bytes(result)))));
        kernel.reads.iter().for_each(|&value| *readers.entry(value).or_default() += 1);
    }
    let written = |index: usize| -> i128 {
        let results = kernels[index].results().map(|result| sizes[&result]).sum::<i128>();
        results + i128::from(wants[index])
    };
    results.iter().for_each(|&value| *readers.entry(value).or_default() += 1);
    let mut waiting = Waiting::of(kernels);
    let mut ready: Vec<usize> = waiting.ready().collect();
    let mut order = Vec::with_capacity(kernels.len());
    loop {
        let gain = |&index: &usize| {
            let last = kernels[index].reads.iter().filter(|value| readers.get(value) == Some(&1));
            let freed: i128 = last.filter_map(|value| sizes.get(value)).sum();
            (freed - written(index), waiting.users[index].len(), Reverse(index))
        };
        let Some(place) = (0..ready.len()).max_by_key(|&place| gain(&ready[place])) else { return order };
        let index = ready.swap_remove(place);
        order.push(index);
        for value in &kernels[index].reads {
            if let Some(left) = readers.get_mut(value) {
                *left -= 1;
            }
        }
        ready.extend(waiting.freed_by(index));
    }
}
