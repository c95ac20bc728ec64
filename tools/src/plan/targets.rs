//! The devices that a plan can be made for.

use std::fmt;
use std::str::FromStr;

use lmc_lower::{Gpu, Target};

use crate::device::cpu_target;

/// A device that a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanTarget {
    card: Option<&'static Card>,
    any_card: bool,
}

/// A GPU, as its maker describes it.
#[derive(Debug, PartialEq)]
struct Card {
    /// What it is called on the command line.
    name: &'static str,
    /// The device's name, as its driver reports it.
    device: &'static str,
    /// In units of 10^9 bytes.
    memory_gb: u32,
    /// In units of 10^9 bytes a second.
    bandwidth_gb: f64,
}

const fn card(name: &'static str, device: &'static str, memory_gb: u32, bandwidth_gb: f64) -> Card {
    Card { name, device, memory_gb, bandwidth_gb }
}

/// From NVIDIA's data sheets.
const CARDS: [Card; 10] = [
    card("h200", "NVIDIA H200", 141, 4800.0),
    card("h100", "NVIDIA H100 80GB HBM3", 80, 3350.0),
    card("a100-80", "NVIDIA A100-SXM4-80GB", 80, 2039.0),
    card("a100-40", "NVIDIA A100-SXM4-40GB", 40, 1555.0),
    card("l40s", "NVIDIA L40S", 48, 864.0),
    card("l4", "NVIDIA L4", 24, 300.0),
    card("rtx5090", "NVIDIA GeForce RTX 5090", 32, 1792.0),
    card("rtx4090", "NVIDIA GeForce RTX 4090", 24, 1008.0),
    card("rtx3090", "NVIDIA GeForce RTX 3090", 24, 936.0),
    card("t4", "Tesla T4", 16, 320.0),
];

impl PlanTarget {
    /// This machine's CPU.
    pub fn cpu() -> PlanTarget {
        PlanTarget { card: None, any_card: false }
    }

    /// A GPU of which nothing else is known.
    pub(super) fn card() -> PlanTarget {
        PlanTarget { card: None, any_card: true }
    }

    /// Its description for XLA's compiler, if there is one.
    pub(super) fn gpu(self) -> Option<Gpu> {
        let name = match self.card?.name {
            "a100-80" => "a100",
            "a100-40" => "a100-40gb",
            name => name,
        };
        Gpu::named(name).ok()
    }

    /// Whether it is a GPU.
    pub fn is_card(self) -> bool {
        self.any_card || self.card.is_some()
    }

    /// What programs are lowered for.
    pub(super) fn lowering(self) -> Target {
        if self.is_card() { Target::generic() } else { cpu_target() }
    }

    /// The device's name, as its driver reports it.
    pub(super) fn device_name(self) -> &'static str {
        self.card.map_or("cpu", |card| card.device)
    }

    /// Its memory.
    pub(super) fn memory_bytes(self) -> Option<u64> {
        self.card.map(|card| u64::from(card.memory_gb) * 1_000_000_000)
    }

    /// Bytes a second from and to its memory.
    pub(super) fn bandwidth(self) -> Option<f64> {
        self.card.map(|card| card.bandwidth_gb * 1e9)
    }
}

impl fmt::Display for PlanTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.card {
            Some(card) => f.write_str(card.name),
            None if self.any_card => f.write_str("a GPU"),
            None => f.write_str("cpu"),
        }
    }
}

impl FromStr for PlanTarget {
    type Err = String;

    fn from_str(name: &str) -> Result<PlanTarget, String> {
        if name == "cpu" {
            return Ok(PlanTarget::cpu());
        }
        let known = CARDS.iter().find(|card| card.name == name);
        known.map(|card| PlanTarget { card: Some(card), any_card: false }).ok_or_else(|| {
            let names: Vec<&str> = CARDS.iter().map(|card| card.name).collect();
            format!("expected cpu, {}, found {name:?}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Precision;
    use crate::run::peak_flops;

    #[test]
    fn every_card_has_a_name_and_a_peak() {
        for card in &CARDS {
            let target: PlanTarget = card.name.parse().expect("a name of the table");
            assert_eq!(target.to_string(), card.name);
            assert!(peak_flops(target.device_name(), Precision::Float32, 0.0).is_some(), "{card:?}");
        }
        assert_eq!("cpu".parse(), Ok(PlanTarget::cpu()));
        let described = |name: &str| name.parse::<PlanTarget>().expect("a name of the table").gpu().map(|gpu| gpu.name);
        assert_eq!(
            ["h200", "a100-80", "a100-40", "t4"].map(described),
            [Some("h200"), Some("a100"), Some("a100-40gb"), None]
        );
        let error = "h20".parse::<PlanTarget>().expect_err("no such card");
        assert!(error.starts_with("expected cpu, h200, h100") && error.ends_with("found \"h20\""), "{error}");
    }
}
