//! Typed ids and the arenas they index.
//!
//! An id is a `u32` newtype, so that a value cannot be looked up with a node's id, nodes stay small, and a graph is
//! copied and sent between threads without a reference in it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// An id that indexes an [`Arena`].
pub trait Entity: Copy + Eq {
    /// The id of the entry at `index`.
    fn new(index: usize) -> Self;
    /// The index of the entry.
    fn index(self) -> usize;
}

macro_rules! entity {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);

        impl Entity for $name {
            fn new(index: usize) -> $name {
                $name(u32::try_from(index).expect("a function has fewer than 2^32 entries"))
            }
            fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

entity!(
    /// A tensor in SSA form, spelled `%7` in the text form.
    ValueId, "%"
);
entity!(
    /// An application of an op, spelled `node7`.
    NodeId, "node"
);
entity!(
    /// A nested body of a node, or the body of the function, spelled `region7`.
    RegionId, "region"
);

/// A growing list whose entries are found by a typed id.
#[derive(Clone, Debug)]
pub struct Arena<K, T> {
    entries: Vec<T>,
    key: PhantomData<K>,
}

impl<K: Entity, T> Arena<K, T> {
    /// An empty arena.
    pub fn new() -> Arena<K, T> {
        Arena { entries: Vec::new(), key: PhantomData }
    }

    /// Adds an entry and returns its id.
    pub fn push(&mut self, entry: T) -> K {
        self.entries.push(entry);
        K::new(self.entries.len() - 1)
    }

    /// The id that the next entry will get.
    pub fn next_id(&self) -> K {
        K::new(self.entries.len())
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry with this id, or `None` when there is none.
    pub fn get(&self, id: K) -> Option<&T> {
        self.entries.get(id.index())
    }

    /// Ids and entries, in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.entries.iter().enumerate().map(|(index, entry)| (K::new(index), entry))
    }
}

impl<K: Entity, T> Default for Arena<K, T> {
    fn default() -> Self {
        Arena::new()
    }
}

impl<K: Entity, T> Index<K> for Arena<K, T> {
    type Output = T;
    fn index(&self, id: K) -> &T {
        &self.entries[id.index()]
    }
}

impl<K: Entity, T> IndexMut<K> for Arena<K, T> {
    fn index_mut(&mut self, id: K) -> &mut T {
        &mut self.entries[id.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arena() {
        let mut arena: Arena<ValueId, &str> = Arena::default();
        assert!(arena.is_empty());
        assert_eq!(arena.next_id(), ValueId::new(0));
        let (a, b) = (arena.push("a"), arena.push("b"));
        arena[b] = "c";
        assert_eq!((arena[a], arena[b], arena.len()), ("a", "c", 2));
        assert_eq!(arena.get(arena.next_id()), None);
        assert_eq!(arena.iter().collect::<Vec<_>>(), [(a, &"a"), (b, &"c")]);
    }

    #[test]
    fn spelling() {
        assert_eq!(ValueId::new(7).to_string(), "%7");
        assert_eq!(format!("{:?} {:?}", NodeId::new(0), RegionId::new(12)), "node0 region12");
    }
}
