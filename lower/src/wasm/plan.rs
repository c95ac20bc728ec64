//! Where in memory everything lies.
//!
//! Tensors that the host reads and writes and constants have places of their own. The others live from the first group
//! that touches them to the last, and share memory with those that do not live at the same time: the largest first, each
//! at the lowest address that is free during its life.

use std::collections::HashMap;

use lmc_graph::{Literal, TensorType};

/// What a buffer is for.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// A tensor that the host reads or writes, by name.
    Slot(String, TensorType),
    /// A tensor known now.
    Constant(Literal),
    /// The value of a group.
    Temporary,
}

/// A piece of memory.
#[derive(Clone, Debug)]
pub(super) struct Buffer {
    /// What it is for.
    pub(super) kind: Kind,
    /// Its size.
    pub(super) bytes: usize,
    /// The positions of the first and the last group that touch it.
    pub(super) life: Option<(usize, usize)>,
}

/// The buffers of all entries of a module.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// The buffers.
    pub(super) all: Vec<Buffer>,
    slots: HashMap<String, usize>,
    constants: HashMap<Literal, usize>,
}

/// What begins a group's memory: enough for every load.
const ALIGNMENT: usize = 16;
/// Bytes behind the last tensor that lanes may read.
const SPARE: usize = 64;

impl Buffers {
    fn push(&mut self, kind: Kind, bytes: usize) -> usize {
        self.all.push(Buffer { kind, bytes, life: None });
        self.all.len() - 1
    }

    /// The slot of a name, with whether it is of another type.
    pub(super) fn slot(&mut self, name: &str, ty: &TensorType) -> Result<usize, TensorType> {
        if let Some(&known) = self.slots.get(name) {
            return match &self.all[known].kind {
                Kind::Slot(_, known_type) if known_type != ty => Err(known_type.clone()),
                Kind::Slot(..) | Kind::Constant(_) | Kind::Temporary => Ok(known),
            };
        }
        let slot = self.push(Kind::Slot(name.to_string(), ty.clone()), ty.num_bytes());
        self.slots.insert(name.to_string(), slot);
        Ok(slot)
    }

    /// The buffer of a tensor known now.
    pub(super) fn constant(&mut self, value: &Literal) -> usize {
        if let Some(&known) = self.constants.get(value) {
            return known;
        }
        let constant = self.push(Kind::Constant(value.clone()), value.bytes().len());
        self.constants.insert(value.clone(), constant);
        constant
    }

    /// A new buffer for a value.
    pub(super) fn temporary(&mut self, bytes: usize) -> usize {
        self.push(Kind::Temporary, bytes)
    }

    /// Notes that the group at a position reads or writes a buffer.
    pub(super) fn touch(&mut self, buffer: usize, position: usize) {
        let life = &mut self.all[buffer].life;
        *life = Some(life.map_or((position, position), |(first, last)| (first.min(position), last.max(position))));
    }

    /// Lets what was there before a loop and is touched in it live to the loop's end.
    pub(super) fn close_loop(&mut self, begin: usize, end: usize) {
        for buffer in &mut self.all {
            if let Some((first, last)) = &mut buffer.life
                && *first < begin
                && *last >= begin
            {
                *last = end;
            }
        }
    }

    /// The address of every buffer, and the bytes of memory that they take. Without `reuse` all have their own.
    pub(super) fn place(&self, reuse: bool) -> (Vec<u64>, usize) {
        let mut addresses = vec![0; self.all.len()];
        // Address 0 stays free.
        let mut end = ALIGNMENT;
        let mut temporaries = Vec::new();
        for (i, buffer) in self.all.iter().enumerate() {
            match buffer.kind {
                Kind::Temporary if reuse => temporaries.push(i),
                Kind::Slot(..) | Kind::Constant(_) | Kind::Temporary => {
                    addresses[i] = end as u64;
                    end = (end + buffer.bytes).next_multiple_of(ALIGNMENT);
                }
            }
        }
        temporaries.sort_by_key(|&i| std::cmp::Reverse(self.all[i].bytes));
        let mut placed: Vec<(usize, usize)> = Vec::new();
        let mut total = end;
        for i in temporaries {
            let Some((first, last)) = self.all[i].life else { continue };
            let at_once = |&&(_, other): &&(usize, usize)| {
                self.all[other].life.is_some_and(|(begin, end)| begin <= last && first <= end)
            };
            let mut address = end;
            // `placed` is in the order of addresses.
            for &(taken, other) in placed.iter().filter(at_once) {
                if address + self.all[i].bytes <= taken {
                    break;
                }
                address = address.max((taken + self.all[other].bytes).next_multiple_of(ALIGNMENT));
            }
            addresses[i] = address as u64;
            total = total.max((address + self.all[i].bytes).next_multiple_of(ALIGNMENT));
            let at = placed.partition_point(|&(taken, _)| taken < address);
            placed.insert(at, (address, i));
        }
        (addresses, total + SPARE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Buffers with these sizes and lives, and the addresses that they get, from the first on.
    fn check(lives: &[(usize, usize, usize)], expected: &[u64]) {
        let mut buffers = Buffers::default();
        for &(bytes, first, last) in lives {
            let buffer = buffers.temporary(bytes);
            buffers.touch(buffer, first);
            buffers.touch(buffer, last);
        }
        let found: Vec<u64> = buffers.place(true).0.iter().map(|address| address - ALIGNMENT as u64).collect();
        assert_eq!(found, expected, "{lives:?}");
    }

    #[test]
    fn memory_is_shared_by_what_does_not_live_together() {
        check(&[(16, 0, 1), (16, 2, 3)], &[0, 0]);
        check(&[(16, 0, 2), (16, 2, 3)], &[0, 16]);
        // The largest is placed first; the smaller one finds the gap.
        check(&[(16, 0, 1), (32, 1, 2), (8, 2, 2)], &[32, 0, 32]);
        check(&[(20, 0, 9), (1, 0, 9)], &[0, 32]);
    }

    #[test]
    fn loops_keep_what_they_found() {
        let mut buffers = Buffers::default();
        let (outer, inner, later) = (buffers.temporary(16), buffers.temporary(16), buffers.temporary(16));
        for (buffer, position) in [(outer, 0), (outer, 2), (inner, 2), (inner, 3), (later, 4)] {
            buffers.touch(buffer, position);
        }
        buffers.close_loop(1, 5);
        let (addresses, _) = buffers.place(true);
        assert_eq!(addresses[inner], addresses[later]);
        assert_ne!(addresses[outer], addresses[later]);
    }
}
