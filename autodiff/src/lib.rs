//! Reverse-mode differentiation for lmc: a pass from graph to graph.
