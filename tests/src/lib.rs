//! Tests across the crates of lmc.
