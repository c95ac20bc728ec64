//! The buffer assignment as text.

use lmc_lower::report::Direction;

use super::{AllocationKind, Buffers, LiveValue, Role};
use crate::error::Result;
use crate::inspect::extract::unknown_layer;
use crate::inspect::place::Place;
use crate::output::group_digits;
use crate::run::quantity::bytes;

/// The buffer assignment as text: sums, what is alive at the peak, and every piece of memory with its values. With a
/// layer, only the values of that layer.
///
/// # Errors
/// If no value is in the layer.
pub fn render(buffers: &Buffers, layer: Option<&str>) -> Result<String> {
    let shown = |value: &&LiveValue| layer.is_none_or(|layer| value.place.is_in(layer));
    if let Some(layer) = layer
        && !buffers.values.iter().any(|value| shown(&value))
    {
        return Err(unknown_layer(layer, buffers.values.iter().map(|value| value.place.layer.clone())));
    }
    let mut out = String::new();
    let mut line = |text: String| {
        out += text.trim_end();
        out.push('\n');
    };
    let (at, peak) = buffers.peak();
    let step = &buffers.schedule[at];
    line(format!(
        "{} in {} allocations; at most {} alive, at {at} of {}: %{}{}",
        bytes(buffers.total as f64),
        buffers.allocations.iter().filter(|allocation| allocation.kind != AllocationKind::ThreadLocal).count(),
        bytes(peak as f64),
        buffers.schedule.len(),
        step.name,
        of_place(&step.place)
    ));
    let row = |value: &LiveValue| {
        format!(
            "{:>14}  {:>6}-{:<6}  {:<28}  {}{}",
            group_digits(value.size),
            value.alive.0,
            value.alive.1,
            value.ty,
            value.name,
            match value.role {
                Role::Weight | Role::OptimizerState | Role::Data => String::new(),
                Role::Activation | Role::Gradient | Role::Update => of_place(&value.place),
            }
        )
    };
    let by_role = buffers.timeline()[at];
    line(String::new());
    line("alive at the peak, by what it is".to_owned());
    for (role, &sum) in Role::ALL.iter().zip(&by_role).filter(|(_, sum)| **sum > 0) {
        line(format!("{:>14}  {}", group_digits(sum), role.name()));
    }
    line(String::new());
    line(format!("alive at the peak\n{:>14}  {:>6}-{:<6}  {:<28}  value", "bytes", "from", "to", "type"));
    for value in buffers.alive_at(at).into_iter().filter(shown) {
        line(row(value));
    }
    line(String::new());
    line("every allocation, with the values that lie there in turn".to_owned());
    for (index, allocation) in buffers.allocations.iter().enumerate() {
        let mut values: Vec<&LiveValue> =
            buffers.values.iter().filter(|value| value.allocation == index).filter(shown).collect();
        if values.is_empty() {
            continue;
        }
        values.sort_by_key(|value| (value.alive, value.offset, value.name.clone()));
        let kind = match &allocation.kind {
            AllocationKind::Parameter(name) => format!("parameter {name}"),
            AllocationKind::Output => "results".to_owned(),
            AllocationKind::Temporary => "temporaries".to_owned(),
            AllocationKind::Constant => "a constant".to_owned(),
            AllocationKind::ThreadLocal => continue,
        };
        line(format!("{:>14}  allocation {}: {kind}", group_digits(allocation.size), allocation.number));
        for value in values {
            line(format!("    @{:<12}{}", value.offset, row(value).trim_start()));
        }
    }
    Ok(out)
}

/// ` (backward of model.norm)`, nothing for no place.
fn of_place(place: &Place) -> String {
    match &*place.layer {
        "" if place.direction == Direction::Forward => String::new(),
        "" => format!(" ({})", place.direction.name()),
        layer => format!(" ({} of {layer})", place.direction.name()),
    }
}
