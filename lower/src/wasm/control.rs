//! Loops and branches.

use lmc_graph::ops::Scan;
use lmc_graph::{Node, ValueId};

use super::affine::i64_of;
use super::expr::Place;
use super::schedule::{Body, Schedule, Target, Task, Work, task_name};

/// A task of a node with regions.
fn task(s: &Schedule<'_>, node: &Node, body: Body) -> Task {
    Task {
        name: task_name(&node.location, node.op.name(), node.results[0]),
        location: node.location.clone(),
        ops: vec![node.op.name()],
        flops: 0,
        values: node.results.iter().map(|&result| (result, s.place(result))).collect(),
        bytes: 0,
        body,
    }
}

/// A group that sets what a loop begins with.
fn group(node: &Node, i: usize, work: Vec<Work>) -> Task {
    Task {
        name: format!("{}.init{i}", task_name(&node.location, node.op.name(), node.results[0])),
        location: node.location.clone(),
        ops: vec!["copy"],
        flops: 0,
        values: vec![],
        bytes: 0,
        body: Body::Group(work),
    }
}

/// Gives carried values memory of their own, and copies what they begin with there.
fn carries(s: &mut Schedule<'_>, node: &Node, homes: &[Place], init: &[ValueId], params: &[&[ValueId]]) -> Vec<Target> {
    let mut targets = Vec::new();
    for (i, (&init, place)) in init.iter().zip(homes).enumerate() {
        let nest = s.copy(init, place);
        s.touch(place);
        let bytes = 2 * s.func.ty(init).num_bytes() as u64;
        let begin = Task { bytes, ..group(node, i, vec![Work::Nest(nest)]) };
        s.push(begin);
        for params in params {
            s.set_place(params[i], place.clone());
        }
        targets.push(Target { place: place.clone(), replaces: params.last().map(|params| params[i]) });
    }
    targets
}

/// A loop whose number of iterations is known: slices of operands and stacked results are addresses that a global moves.
pub(super) fn scan(s: &mut Schedule<'_>, node: &Node, op: &Scan, homes: &[Place]) {
    let func = s.func;
    let body = node.regions[0];
    let region = func.region(body);
    let (init, xs) = node.operands.split_at(op.num_carry);
    let mut targets = carries(s, node, homes, init, &[&region.params[..op.num_carry]]);
    let global = s.depth;
    let element = |place: &Place, bytes: usize| {
        let mut place = place.clone();
        place.iterations.push((global, i64_of(bytes)));
        place
    };
    for (&x, &param) in xs.iter().zip(&region.params[op.num_carry..]) {
        let place = element(&s.place(x), func.ty(param).num_bytes());
        s.set_place(param, place);
    }
    for (home, &result) in homes.iter().zip(&region.results).skip(op.num_carry) {
        // It is there for the whole loop.
        s.touch(home);
        let place = element(home, func.ty(result).num_bytes());
        targets.push(Target { place, replaces: None });
    }
    if op.length == 0 {
        return;
    }
    s.position += 1;
    let begin = s.position;
    s.depth += 1;
    s.num_globals = s.num_globals.max(s.depth);
    let tasks = s.apart(|s| s.region(body, &targets));
    s.depth -= 1;
    s.buffers.close_loop(begin, s.position);
    let task = task(s, node, Body::Repeat { global, length: op.length, reverse: op.reverse, tasks });
    s.push(task);
}

/// A loop as long as a condition holds.
pub(super) fn while_loop(s: &mut Schedule<'_>, node: &Node, homes: &[Place]) {
    let func = s.func;
    let [condition, body] = [node.regions[0], node.regions[1]];
    let params = [&func.region(condition).params[..], &func.region(body).params[..]];
    let targets = carries(s, node, homes, &node.operands, &params);
    let holds = Place::of(s.buffers.temporary(1));
    s.touch(&holds);
    s.position += 1;
    let begin = s.position;
    let condition = s.apart(|s| s.region(condition, &[Target { place: holds.clone(), replaces: None }]));
    s.touch(&holds);
    let tasks = s.apart(|s| s.region(body, &targets));
    s.buffers.close_loop(begin, s.position);
    let task = task(s, node, Body::While { condition, holds, tasks });
    s.push(task);
}

/// One of two regions.
pub(super) fn if_else(s: &mut Schedule<'_>, node: &Node, homes: &[Place]) {
    let holds = s.place(node.operands[0]);
    homes.iter().for_each(|home| s.touch(home));
    let targets: Vec<Target> = homes.iter().map(|home| Target { place: home.clone(), replaces: None }).collect();
    s.touch(&holds);
    s.position += 1;
    let [on_true, on_false] = [node.regions[0], node.regions[1]].map(|region| s.apart(|s| s.region(region, &targets)));
    let task = task(s, node, Body::If { holds, on_true, on_false });
    s.push(task);
}
