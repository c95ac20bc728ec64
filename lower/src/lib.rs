//! From graph to StableHLO for a target, with a report of how every product and attention lowered.
