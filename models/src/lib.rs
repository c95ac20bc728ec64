//! Language models as graphs: parameters, layers, losses, optimizers, architectures, the training step.
