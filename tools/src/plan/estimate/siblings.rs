//! Loops that a compiler makes one of, because they go over as many elements and read a buffer in common: all that they
//! write is then there at the same time. (Of XLA's `MultiOutputFusion` for GPUs the fusion of siblings.)

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::fusion::Kernel;
use super::is_by_element;
use super::program::{Op, Program, Value};

/// The kernels, each after those that it reads of, with those together that one loop computes.
pub(super) fn together<'p>(program: &Program, kernels: Vec<Kernel<'p>>) -> Vec<Kernel<'p>> {
    let mut readers: BTreeMap<Value, Vec<usize>> = BTreeMap::new();
    for (index, kernel) in kernels.iter().enumerate().filter(|(_, kernel)| kernel.only().is_some_and(is_loop)) {
        // What is a single number is no reason to be one loop.
        let tensors = kernel.reads.iter().filter(|&&value| program.ty(value).num_elements() > 1);
        tensors.for_each(|&value| readers.entry(value).or_default().push(index));
    }
    let elements = |&index: &usize| kernels[index].results().map(|value| program.ty(value).num_elements()).next();
    let mut groups = Groups::of(&kernels);
    for readers in readers.into_values().rev() {
        // Neighbours first: what the backward pass reads as the forward pass did belongs to the backward pass.
        for (place, one) in readers.iter().enumerate().rev() {
            let as_many = readers[..place].iter().rev().filter(|other| elements(other) == elements(one));
            as_many.for_each(|&other| groups.join(*one, other));
        }
    }
    groups.of_kernels(kernels)
}

/// Whether an op is a loop over its elements, in which others may be computed.
fn is_loop(op: &Op) -> bool {
    op.results.len() == 1 && is_by_element(op) && !matches!(&*op.name, "while" | "if" | "sort" | "scatter")
}

/// Kernels that become one.
struct Groups {
    /// Of each kernel all that it is together with, itself among them.
    members: Vec<BTreeSet<usize>>,
    /// Of each kernel all that run before it.
    before: Vec<Set>,
}

impl Groups {
    /// Each by itself.
    fn of(kernels: &[Kernel<'_>]) -> Groups {
        let mut makers: HashMap<Value, usize> = HashMap::new();
        let mut before: Vec<Set> = Vec::with_capacity(kernels.len());
        for (index, kernel) in kernels.iter().enumerate() {
            let mut own = Set::new(kernels.len());
            for &maker in kernel.reads.iter().chain(&kernel.waits).filter_map(|value| makers.get(value)) {
                own.insert(maker);
                own.extend(&before[maker]);
            }
            before.push(own);
            makers.extend(kernel.results().map(|result| (result, index)));
        }
        Groups { members: (0..kernels.len()).map(|index| BTreeSet::from([index])).collect(), before }
    }

    /// Makes one of two kernels' groups, if neither has to wait for the other.
    fn join(&mut self, one: usize, other: usize) {
        if self.members[one].contains(&other) || self.before[one].contains(other) || self.before[other].contains(one) {
            return;
        }
        let members: BTreeSet<usize> = self.members[one].union(&self.members[other]).copied().collect();
        let mut before = self.before[one].clone();
        before.extend(&self.before[other]);
        let mut with_members = before.clone();
        members.iter().for_each(|&member| with_members.insert(member));
        for &member in &members {
            self.members[member].clone_from(&members);
            self.before[member] = before.clone();
        }
        // Whatever waits for one of them waits for all.
        for waiting in self.before.iter_mut().filter(|before| before.contains(one) || before.contains(other)) {
            waiting.extend(&with_members);
        }
    }

    /// The kernels of the groups, each where the last of it was, or before what reads it.
    fn of_kernels<'p>(self, kernels: Vec<Kernel<'p>>) -> Vec<Kernel<'p>> {
        let mut kernels: Vec<Option<Kernel<'p>>> = kernels.into_iter().map(Some).collect();
        let mut joined = Vec::new();
        for (index, members) in self.members.iter().enumerate() {
            if members.last() == Some(&index) {
                self.put(index, &mut kernels, &mut joined);
            }
        }
        joined
    }

    /// Moves the group of a kernel to `joined`, behind all that it waits for, if it is not there yet.
    fn put<'p>(&self, index: usize, kernels: &mut [Option<Kernel<'p>>], joined: &mut Vec<Kernel<'p>>) {
        if kernels[index].is_none() {
            return;
        }
        for before in self.before[index].iter() {
            self.put(before, kernels, joined);
        }
        let mut parts = self.members[index].iter().filter_map(|&member| kernels[member].take());
        let Some(mut kernel) = parts.next() else { return };
        for part in parts {
            kernel.ops.extend(part.ops);
            kernel.reads.extend(part.reads);
            kernel.waits.extend(part.waits);
        }
        for values in [&mut kernel.reads, &mut kernel.waits] {
            values.sort_unstable();
            values.dedup();
        }
        joined.push(kernel);
    }
}

/// A set of kernels, a bit each.
#[derive(Clone)]
struct Set(Vec<u64>);

impl Set {
    fn new(len: usize) -> Set {
        Set(vec![0; len.div_ceil(64)])
    }

    fn insert(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    fn contains(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    fn extend(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(own, other)| *own |= other);
    }

    /// Ascending.
    fn iter(&self) -> impl Iterator<Item = usize> {
        let bits = |word: u64| (0..64).filter(move |bit| word >> bit & 1 == 1);
        self.0.iter().enumerate().flat_map(move |(at, &word)| bits(word).map(move |bit| at * 64 + bit))
    }
}
