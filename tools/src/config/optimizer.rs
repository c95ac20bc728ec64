//! `[optimizer]` and `[schedule]`: from what was written to settings that hold.

use super::section::{BELOW_ONE, FRACTION, NOT_NEGATIVE, POSITIVE, Section};
use super::settings::{AdjustLrFn, OptimizerConfig, OptimizerKind, ScheduleConfig, ScheduleKind};
use super::source::Problem;
use super::tree::Kind;

/// `[optimizer]`.
pub(super) fn read_optimizer(section: &Section<'_>) -> OptimizerConfig {
    let kind = section.choice_or("kind", OptimizerKind::AdamW);
    let (default_betas, default_decay) = match kind {
        OptimizerKind::AdamW | OptimizerKind::Muon => ([0.9, 0.95], 0.1),
        OptimizerKind::Adam => ([0.9, 0.95], 0.0),
        OptimizerKind::Lion => ([0.9, 0.99], 1.0),
    };
    let weight_decay = section.number_or("weight_decay", default_decay, &NOT_NEGATIVE);
    section.require(&["weight_decay", "kind"], kind != OptimizerKind::Adam || weight_decay == 0.0, || {
        "kind = \"adam\" has no weight decay; say kind = \"adamw\" for it".to_owned()
    });
    let eps = section.number_or("eps", 1e-8, &POSITIVE);
    section.require(&["eps", "kind"], kind != OptimizerKind::Lion || !section.has("eps"), || {
        "kind = \"lion\" has no `eps`: it divides by nothing".to_owned()
    });
    let learning_rate = section.number("learning_rate", &POSITIVE);
    let muon = read_muon(section, kind, learning_rate);
    OptimizerConfig {
        kind,
        learning_rate,
        betas: read_betas(section).unwrap_or(default_betas),
        eps: (kind != OptimizerKind::Lion).then_some(eps),
        weight_decay,
        grad_clip_norm: section.number_or("grad_clip_norm", 1.0, &NOT_NEGATIVE),
        momentum: muon.map(|(momentum, ..)| momentum),
        muon_learning_rate: muon.map(|(_, rate, _)| rate),
        adjust_lr_fn: muon.map(|(.., adjustment)| adjustment),
    }
}

/// Momentum, learning rate and its adjustment for the matrices of Muon; `None` for another optimizer.
fn read_muon(section: &Section<'_>, kind: OptimizerKind, learning_rate: f64) -> Option<(f64, f64, AdjustLrFn)> {
    let is_muon = kind == OptimizerKind::Muon;
    let momentum = section.number_or("momentum", 0.95, &BELOW_ONE);
    let adjustment = section.choice_or("adjust_lr_fn", AdjustLrFn::MatchRmsAdamW);
    let rate = section.number_or("muon_learning_rate", learning_rate, &POSITIVE);
    for key in ["momentum", "adjust_lr_fn", "muon_learning_rate"] {
        section.require(&[key, "kind"], is_muon || !section.has(key), || {
            format!("`{key}` is for kind = \"muon\", found kind = \"{kind}\"")
        });
    }
    let given = section.has("muon_learning_rate") || adjustment != AdjustLrFn::Original;
    section.require(&["adjust_lr_fn", "kind"], !is_muon || given, || {
        "adjust_lr_fn = \"original\" needs `muon_learning_rate`: its rates are not AdamW's; 0.02 is usual".to_owned()
    });
    is_muon.then_some((momentum, rate, adjustment))
}

fn read_betas(section: &Section<'_>) -> Option<[f64; 2]> {
    let node = section.node("betas")?;
    if let Kind::Array(items) = &node.kind
        && let [first, second] = items.as_slice()
    {
        let (first, second) =
            (section.number_at("betas", first, &BELOW_ONE), section.number_at("betas", second, &BELOW_ONE));
        return Some([first?, second?]);
    }
    let message = format!("`betas` takes two numbers such as [0.9, 0.95], found {}", node.kind.describe());
    section.problem("betas", Problem::new(node.place, message));
    None
}

/// `[schedule]`, which may not end above the peak, if that is `sound`.
pub(super) fn read_schedule(section: &Section<'_>, learning_rate: f64, sound: bool) -> ScheduleConfig {
    let kind = section.choice_or("kind", ScheduleKind::Constant);
    let min_learning_rate = section.number_or("min_learning_rate", 0.0, &NOT_NEGATIVE);
    section.require(&["min_learning_rate"], !sound || min_learning_rate <= learning_rate, || {
        format!(
            "`min_learning_rate` {min_learning_rate:?} is more than [optimizer]'s `learning_rate` {learning_rate:?}"
        )
    });
    section.require(&["min_learning_rate", "kind"], kind != ScheduleKind::Constant || min_learning_rate == 0.0, || {
        "kind = \"constant\" has no `min_learning_rate`: the rate does not fall".to_owned()
    });
    let decay_fraction = section.number_or("decay_fraction", 0.1, &FRACTION);
    let wsd = kind == ScheduleKind::Wsd;
    section.require(&["decay_fraction", "kind"], wsd || !section.has("decay_fraction"), || {
        format!("`decay_fraction` is for kind = \"wsd\", found kind = \"{kind}\"")
    });
    ScheduleConfig {
        kind,
        warmup_steps: section.count_or("warmup_steps", 0),
        min_learning_rate,
        decay_fraction: wsd.then_some(decay_fraction),
    }
}
