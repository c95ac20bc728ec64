//! Operations and bytes of a training step, by layer and by pass.

use std::collections::BTreeMap;

use lmc_graph::Func;
use lmc_lower::Report;
use lmc_lower::report::Direction;

use super::graph_cost::node_costs;
use super::hlo::{Module, instruction_costs};
use super::place::Place;

/// What something costs in one execution of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Operations, a multiplication and an addition counted as two; of loops those of every iteration.
    pub flops: f64,
    /// Roots, exponentials, logarithms, trigonometric functions and powers of elements.
    pub transcendentals: f64,
    /// Bytes read and written. Of a graph as if every node went through memory; of a compiled program by what it fuses.
    pub bytes: f64,
    /// Operations in XLA's way of counting: the body of a loop once, nothing for a library call. What to compare with
    /// its cost analysis.
    pub xla_flops: f64,
}

impl Cost {
    fn add(&mut self, other: &Cost) {
        self.flops += other.flops;
        self.transcendentals += other.transcendentals;
        self.bytes += other.bytes;
        self.xla_flops += other.xla_flops;
    }
}

/// The costs of a layer itself, without the layers below it.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerCost {
    /// The path; empty for what belongs to no layer.
    pub layer: String,
    /// Those of each pass, in the order of [`Direction::ALL`].
    pub passes: [Cost; Direction::ALL.len()],
}

impl LayerCost {
    /// The costs of all passes.
    pub fn total(&self) -> Cost {
        self.passes.iter().fold(Cost::default(), |mut sum, cost| {
            sum.add(cost);
            sum
        })
    }
}

/// The costs of a program by layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attribution {
    /// A row for each layer that has a cost, in the order in which layers first stand in the program.
    pub layers: Vec<LayerCost>,
}

impl Attribution {
    /// Of a graph that was lowered with this report: what is asked for, whatever a compiler makes of it.
    pub fn of_func(func: &Func, report: &Report) -> Attribution {
        let costs = node_costs(func, report).into_iter().map(|cost| {
            let times = cost.times;
            let place = Place::of(&func.node(cost.node).location.scope);
            let cost = Cost {
                flops: cost.flops * times,
                transcendentals: cost.transcendentals * times,
                bytes: cost.bytes * times,
                xla_flops: if times > 0.0 { cost.flops } else { 0.0 },
            };
            (place, cost)
        });
        Attribution::of(costs)
    }

    /// Of a compiled program: what runs.
    pub fn of_module(module: &Module) -> Attribution {
        let costs = instruction_costs(module).into_iter().map(|cost| {
            let instruction = &module.computations[cost.computation].instructions[cost.instruction];
            let sums = Cost {
                flops: cost.flops * cost.times,
                transcendentals: cost.transcendentals * cost.times,
                bytes: cost.bytes * cost.times,
                xla_flops: cost.flops * cost.xla_times,
            };
            (module.place_of(instruction), sums)
        });
        Attribution::of(costs)
    }

    fn of(costs: impl Iterator<Item = (Place, Cost)>) -> Attribution {
        let mut index: BTreeMap<String, usize> = BTreeMap::new();
        let mut layers: Vec<LayerCost> = Vec::new();
        for (place, cost) in costs {
            if cost == Cost::default() {
                continue;
            }
            let at = *index.entry(place.layer.clone()).or_insert_with(|| {
                layers.push(LayerCost { layer: place.layer, passes: Default::default() });
                layers.len() - 1
            });
            let pass = Direction::ALL.iter().position(|&direction| direction == place.direction).unwrap_or(0);
            layers[at].passes[pass].add(&cost);
        }
        Attribution { layers }
    }

    /// The cost of the whole program.
    pub fn total(&self) -> Cost {
        self.layers.iter().fold(Cost::default(), |mut sum, layer| {
            sum.add(&layer.total());
            sum
        })
    }

    /// The cost of a pass.
    pub fn total_of(&self, direction: Direction) -> Cost {
        let pass = Direction::ALL.iter().position(|&other| other == direction).unwrap_or(0);
        self.layers.iter().fold(Cost::default(), |mut sum, layer| {
            sum.add(&layer.passes[pass]);
            sum
        })
    }

    /// The layers in `path` and below.
    pub fn of_layer(&self, path: &str) -> Attribution {
        let is_in = |layer: &LayerCost| Place { layer: layer.layer.clone(), direction: Direction::Forward }.is_in(path);
        Attribution { layers: self.layers.iter().filter(|layer| is_in(layer)).cloned().collect() }
    }

    /// Layers that differ in the number of a block only, in one row: `model.layers.*.mlp`. The number of layers in each
    /// stands beside it.
    pub fn grouped(&self) -> Vec<(LayerCost, usize)> {
        let mut groups: Vec<(LayerCost, usize)> = Vec::new();
        for layer in &self.layers {
            let name = crate::run::without_numbers(&layer.layer);
            match groups.iter_mut().find(|(group, _)| group.layer == name) {
                Some((group, count)) => {
                    group.passes.iter_mut().zip(&layer.passes).for_each(|(sum, cost)| sum.add(cost));
                    *count += 1;
                }
                None => groups.push((LayerCost { layer: name, ..layer.clone() }, 1)),
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use lmc_autodiff::value_and_grad;
    use lmc_graph::{Builder, DType, TensorType};
    use lmc_lower::{Target, lower};

    use super::*;

    #[test]
    fn costs_are_those_of_layers_and_passes() {
        let ty = TensorType::new(DType::F32, [4, 4]);
        let func = Builder::build("f", |b| {
            let (x, w) = (b.param("x", ty.clone()), b.param("w", ty.clone()));
            let y = b.scope("h.0.fc", || x.dot(w));
            let y = b.scope("h.1.fc", || b.remat(|| vec![y.dot(w)]))[0];
            vec![y.sum(&[0, 1])]
        });
        let grad = value_and_grad(&func, &[1]).expect("all have derivatives");
        let attribution = Attribution::of_func(&grad, &lower(&grad, &Target::generic()).report);
        let product = 128.0;
        let flops = |layer: &str, direction: Direction| attribution.of_layer(layer).total_of(direction).flops;
        // Only the weight's gradient of the first; both of the second, and the sum of the two gradients.
        assert_eq!(flops("h.0.fc", Direction::Forward), product);
        assert_eq!(flops("h.0.fc", Direction::Recompute), 0.0);
        assert_eq!(flops("h.1.fc", Direction::Forward), product);
        assert_eq!(flops("h.1.fc", Direction::Recompute), 0.0, "the product itself is not needed again");
        assert_eq!(flops("h.1.fc", Direction::Backward), 2.0 * product);
        assert_eq!(flops("h.0.fc", Direction::Backward), product + 16.0);
        let groups: Vec<(String, usize)> =
            attribution.grouped().into_iter().map(|(group, count)| (group.layer, count)).collect();
        assert_eq!(groups, [("h.*.fc".to_owned(), 2), (String::new(), 1)]);
        let total = attribution.total();
        let parts: f64 = Direction::ALL.iter().map(|&direction| attribution.total_of(direction).flops).sum();
        assert_eq!((total.flops, total.xla_flops), (parts, parts));
    }
}
