//! Which layer and which pass an op belongs to, told by the scope of its location.

use lmc_lower::report::Direction;

/// A layer and a pass of a training step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The path of the layer in the model, `model.layers.0.self_attn`; empty for what belongs to none.
    pub layer: String,
    /// The pass.
    pub direction: Direction,
}

/// The scope of the loop over micro-batches, which is around every layer.
const MICRO_BATCHES: &str = "micro_batches";

/// What the scopes of the optimizer begin with; the path of the weight that it changes follows.
const OPTIMIZER: &str = "optimizer";

impl Place {
    /// What a scope tells: `micro_batches.vjp(model.norm)` is the backward pass of `model.norm`, and
    /// `optimizer.model.norm.weight` the optimizer at that layer. XLA joins the scopes of ops that it merges by `;`:
    /// the first counts.
    pub fn of(scope: &str) -> Place {
        let scope = scope.split(';').next().unwrap_or_default();
        let direction = Direction::of_scope(scope);
        let mut layer = String::new();
        for part in unwrapped(scope).split('.').filter(|part| !part.is_empty()) {
            if layer.is_empty() && part == MICRO_BATCHES {
                continue;
            }
            if !layer.is_empty() {
                layer.push('.');
            }
            layer.push_str(part);
        }
        if direction == Direction::Optimizer {
            let weight = layer.strip_prefix(OPTIMIZER).unwrap_or(&layer).trim_start_matches('.');
            layer = weight.rsplit_once('.').map_or(String::new(), |(layer, _)| layer.to_owned());
        }
        Place { layer, direction }
    }

    /// Whether this is in the layer `path` or below it. A part of `path` that is `*` stands for any one.
    pub fn is_in(&self, path: &str) -> bool {
        let mut parts = self.layer.split('.');
        path.split('.').all(|wanted| parts.next().is_some_and(|part| wanted == "*" || part == wanted))
    }
}

/// A scope without the `vjp(…)` and `remat(…)` around its parts.
fn unwrapped(scope: &str) -> String {
    let mut rest = scope;
    let mut out = String::new();
    let mut depth = 0;
    while let Some(c) = rest.chars().next() {
        let at_start = out.is_empty() || out.ends_with('.');
        if let Some(inner) = ["vjp(", "remat("].iter().find_map(|start| rest.strip_prefix(start)).filter(|_| at_start) {
            (rest, depth) = (inner, depth + 1);
            continue;
        }
        match c {
            ')' if depth > 0 => depth -= 1,
            _ => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_tell_layer_and_pass() {
        for (scope, layer, direction) in [
            ("", "", Direction::Forward),
            ("model.layers.0.mlp", "model.layers.0.mlp", Direction::Forward),
            ("vjp(model.layers.0.mlp)", "model.layers.0.mlp", Direction::Backward),
            ("vjp()", "", Direction::Backward),
            ("remat(model.layers)", "model.layers", Direction::Recompute),
            ("micro_batches", "", Direction::Forward),
            ("micro_batches.model.norm", "model.norm", Direction::Forward),
            ("micro_batches.vjp(model.norm)", "model.norm", Direction::Backward),
            ("micro_batches.remat(model.norm)", "model.norm", Direction::Recompute),
            ("optimizer", "", Direction::Optimizer),
            ("optimizer.model.layers.0.q_proj.weight", "model.layers.0.q_proj", Direction::Optimizer),
            ("optimizer.w", "", Direction::Optimizer),
            ("model.norm;vjp(model.norm)", "model.norm", Direction::Forward),
        ] {
            assert_eq!(Place::of(scope), Place { layer: layer.to_owned(), direction }, "{scope}");
        }
    }

    #[test]
    fn layers_hold_what_is_below_them() {
        let place = Place::of("vjp(model.layers.10.self_attn.q_proj)");
        for (path, expected) in [
            ("model", true),
            ("model.layers.10", true),
            ("model.layers.*.self_attn", true),
            ("model.layers.10.self_attn.q_proj", true),
            ("model.layers.1", false),
            ("model.layers.10.self_attn.q_proj.x", false),
            ("layers.10", false),
        ] {
            assert_eq!(place.is_in(path), expected, "{path}");
        }
    }
}
