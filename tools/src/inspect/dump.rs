//! The texts of all stages of a training step, made from a config or read from a folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lmc_autodiff::value_and_grad;
use lmc_graph::Func;
use lmc_graph::text::{PrintOptions, print_with};
use lmc_lower::{Lowered, Report, lower};
use lmc_models::{LossFunc, StepConfig, TrainStep, train_step};
use lmc_runtime::CompiledMemoryStats;
use serde::{Deserialize, Serialize};

use super::backend::{Backend, Compilation, needs_gpu};
use super::buffers::{self, Buffers};
use super::compiled::summary;
use super::extract::layer_functions;
use super::graph_cost::attention_flops;
use super::hlo::Module;
use super::stage::Stage;
use crate::config::Config;
use crate::digest::sha256;
use crate::error::{Error, Result};
use crate::model::{differentiation_error, step_config};
use crate::plan::with_vocabulary;
use crate::run::replace_file;

/// The graphs of a training step.
#[derive(Clone, Debug)]
pub struct Graphs {
    /// The loss of a micro-batch.
    pub loss: LossFunc,
    /// The loss with its gradient.
    pub grad: Func,
    /// The training step.
    pub step: TrainStep,
}

impl Graphs {
    /// The graphs of what a config trains. Data are only looked at where the config leaves `model.vocab_size` to them.
    ///
    /// # Errors
    /// If the config needs data to know its vocabulary and they cannot be read, or the model takes no such settings.
    pub fn of(config: &Config) -> Result<Graphs> {
        Graphs::of_step(&sized_step_config(config)?)
    }

    /// The graphs of a training step.
    ///
    /// # Errors
    /// If the loss has no derivative.
    pub fn of_step(config: &StepConfig) -> Result<Graphs> {
        Graphs::of_loss(config.loss_func(), train_step(config).map_err(differentiation_error)?)
    }

    /// The graphs of a loss and of a training step that was made of it.
    ///
    /// # Errors
    /// If the loss has no derivative.
    pub fn of_loss(loss: LossFunc, step: TrainStep) -> Result<Graphs> {
        let weights: Vec<usize> = (loss.num_inputs()..loss.func.params.len()).collect();
        let grad = value_and_grad(&loss.func, &weights).map_err(differentiation_error)?;
        Ok(Graphs { loss, grad, step })
    }
}

/// The training step that a config asks for; its data are opened only if `model.vocab_size` is left to them.
///
/// # Errors
/// As [`Graphs::of`].
pub fn sized_step_config(config: &Config) -> Result<StepConfig> {
    step_config(&with_vocabulary(config)?)
}

/// How a stage is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpOptions {
    /// Whether nodes of `graph`, `grad` and `step` have the model's scope and line.
    pub locations: bool,
    /// Only what belongs to this layer, a path such as `model.layers.0.self_attn`, forward and backward.
    pub layer: Option<String>,
}

/// The text of one stage. The same config gives the same bytes.
///
/// With a layer, `graph`, `grad`, `step` and `stablehlo` are functions of their own that compute what the layer does,
/// with what comes in from outside as parameters: several, one after the other, where the layer stands in several
/// loops, those of StableHLO separated by `// -----`. The other stages are those lines of the whole that belong to it.
///
/// # Errors
/// If the stage cannot be made, or has nothing of the layer.
pub fn dump(config: &Config, stage: Stage, backend: &Backend, options: &DumpOptions) -> Result<String> {
    let step_config = sized_step_config(config)?;
    let loss = || step_config.loss_func();
    let step = || Ok(train_step(&step_config).map_err(differentiation_error)?.func);
    let layer = options.layer.as_deref();
    let functions = |func: Func| match layer {
        None => Ok(vec![func]),
        Some(layer) => layer_functions(&func, layer),
    };
    let print = |func: Func| -> Result<String> {
        let texts = functions(func)?;
        let texts = texts.iter().map(|func| print_with(func, PrintOptions { locations: options.locations }));
        Ok(texts.collect::<Vec<_>>().join("\n"))
    };
    let compiled = |ptx: bool| -> Result<(Report, Compilation)> {
        let Lowered { text, report } = lower(&step()?, &backend.target());
        Ok((report, backend.compile(&text, ptx)?))
    };
    let of_layer = |text: String| match layer {
        None => Ok(text),
        Some(layer) => super::hlo::lines_of_layer(&text, layer),
    };
    check_stage(stage, backend, layer)?;
    match stage {
        Stage::Graph => print(loss().func),
        Stage::Grad => {
            let loss = loss();
            let weights: Vec<usize> = (loss.num_inputs()..loss.func.params.len()).collect();
            print(value_and_grad(&loss.func, &weights).map_err(differentiation_error)?)
        }
        Stage::Step => print(step()?),
        Stage::Stablehlo => {
            let texts = functions(step()?)?;
            let texts = texts.iter().map(|func| lower(func, &backend.target()).text);
            Ok(texts.collect::<Vec<_>>().join("\n// -----\n\n"))
        }
        Stage::Report => {
            let mut report = lower(&step()?, &backend.target()).report;
            if let Some(layer) = layer {
                report = super::explain::of_layer(&report, layer)?;
            }
            Ok(report.to_string())
        }
        Stage::Hlo => of_layer(compiled(false)?.1.hlo),
        Stage::Optimized => of_layer(compiled(false)?.1.optimized),
        Stage::Buffers => {
            let (_, compilation) = compiled(false)?;
            let buffers = compiled_buffers(&step()?, &compilation.optimized, compilation.buffers.as_deref())?;
            buffers::render(&buffers, layer)
        }
        Stage::Compiled => {
            let (report, compilation) = compiled(false)?;
            summary(&report, &compilation)
        }
        Stage::Kernels => Ok(compiled(false)?.1.code()?.kernels.clone()),
        Stage::Ptx => Ok(compiled(true)?.1.code()?.ptx.clone()),
    }
}

/// Refuses a stage that a backend has not, or that cannot be taken apart.
fn check_stage(stage: Stage, backend: &Backend, layer: Option<&str>) -> Result<()> {
    if !stage.is_for_gpus() {
        return Ok(());
    }
    match (backend, layer) {
        (Backend::Cpu(_) | Backend::Generic, _) => Err(needs_gpu()),
        (Backend::Gpu { .. }, Some(_)) => {
            Err(Error::input(format!("`--layer` takes part of a stage, and {} is of the whole program", stage.name())))
        }
        (Backend::Gpu { .. }, None) => Ok(()),
    }
}

/// The buffer assignment of a compiled training step, with the names of the model.
fn compiled_buffers(func: &Func, optimized: &str, assignment: Option<&str>) -> Result<Buffers> {
    let assignment = assignment.ok_or_else(|| Error::run("the plugin writes no buffer assignment"))?;
    let module = Module::parse(optimized).map_err(Error::run)?;
    Buffers::parse(assignment, &module, func).map_err(Error::run)
}

/// The sizes that a compiler planned, by name.
fn memory_sizes(sizes: &CompiledMemoryStats) -> BTreeMap<String, u64> {
    let CompiledMemoryStats { generated_code, arguments, outputs, alias, temporaries, peak } = *sizes;
    [
        ("generated_code", generated_code),
        ("arguments", arguments),
        ("outputs", outputs),
        ("alias", alias),
        ("temporaries", temporaries),
        ("peak", peak),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), u64::try_from(bytes).unwrap_or(0)))
    .collect()
}

/// The texts of a training step in all its stages.
#[derive(Clone, Debug, PartialEq)]
pub struct Dump {
    /// What it is of: the name of the config's file.
    pub name: String,
    /// What it was lowered for.
    pub target: String,
    /// The resolved config; empty for a model that has none.
    pub config: String,
    /// The text of each stage. `graph`, `grad` and `step` have locations.
    pub stages: BTreeMap<Stage, String>,
    /// Operations of the products of each attention, each time it runs, in the order of the program.
    pub attention_flops: Vec<u64>,
    /// The buffer assignment as XLA writes it; `None` where it was not compiled.
    pub assignment: Option<String>,
    /// XLA's own cost analysis of the compiled program; empty where it was not compiled.
    pub cost_analysis: BTreeMap<String, f64>,
    /// The sizes in bytes that the compiler planned; empty where it was not compiled.
    pub memory: BTreeMap<String, u64>,
}

/// The file that says what is in the folder of a dump.
pub const INDEX: &str = "index.json";

/// What [`INDEX`] holds.
#[derive(Serialize, Deserialize)]
struct Index {
    lmc: String,
    name: String,
    target: String,
    config: String,
    stages: Vec<IndexEntry>,
    attention_flops: Vec<u64>,
    xla_cost_analysis: BTreeMap<String, f64>,
    compiled_memory: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
struct IndexEntry {
    stage: String,
    file: String,
    about: String,
    bytes: usize,
    sha256: String,
}

/// The file with the resolved config in the folder of a dump.
const CONFIG: &str = "config.toml";

/// The file with XLA's own buffer assignment in the folder of a dump.
const ASSIGNMENT: &str = "buffer-assignment.txt";

impl Dump {
    /// Every stage of what a config trains; those that take XLA only if `compiled`.
    ///
    /// # Errors
    /// As [`dump()`].
    pub fn of(name: &str, config: &Config, backend: &Backend, compiled: bool) -> Result<Dump> {
        let dump = Dump::of_graphs(name, &Graphs::of(config)?, backend, compiled)?;
        Ok(Dump { config: config.to_toml()?, ..dump })
    }

    /// Every stage of a training step, such as one of a model of one's own; those that take XLA only if `compiled`.
    ///
    /// # Errors
    /// If it cannot be compiled.
    pub fn of_graphs(name: &str, graphs: &Graphs, backend: &Backend, compiled: bool) -> Result<Dump> {
        let Lowered { text: stablehlo, report } = lower(&graphs.step.func, &backend.target());
        let print = |func: &Func| print_with(func, PrintOptions { locations: true });
        let mut stages = BTreeMap::from([
            (Stage::Graph, print(&graphs.loss.func)),
            (Stage::Grad, print(&graphs.grad)),
            (Stage::Step, print(&graphs.step.func)),
            (Stage::Report, report.to_string()),
        ]);
        let (mut assignment, mut cost_analysis, mut memory) = (None, BTreeMap::new(), BTreeMap::new());
        if compiled {
            let compilation = backend.compile(&stablehlo, true)?;
            if let Some(assignment) = &compilation.buffers {
                let buffers = compiled_buffers(&graphs.step.func, &compilation.optimized, Some(assignment))?;
                stages.insert(Stage::Buffers, buffers::render(&buffers, None)?);
            }
            if let Some(code) = &compilation.code {
                stages.insert(Stage::Compiled, summary(&report, &compilation)?);
                stages.insert(Stage::Kernels, code.kernels.clone());
                stages.insert(Stage::Ptx, code.ptx.clone());
            }
            memory = compilation.memory.as_ref().map(memory_sizes).unwrap_or_default();
            assignment = compilation.buffers;
            stages.insert(Stage::Hlo, compilation.hlo);
            stages.insert(Stage::Optimized, compilation.optimized);
            cost_analysis = compilation.cost_analysis;
        }
        stages.insert(Stage::Stablehlo, stablehlo);
        let target = backend.target().to_string();
        let (name, config) = (name.to_owned(), String::new());
        let attention_flops = attention_flops(&report);
        Ok(Dump { name, target, config, stages, attention_flops, assignment, cost_analysis, memory })
    }

    /// Writes a folder with a file a stage, the config and an index, in which stages have their sizes and hashes.
    ///
    /// # Errors
    /// If the folder exists and is not one of a dump, or something cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let failed = |path: &Path, error: &std::io::Error| {
            Error::input(format!("cannot write {}: {}", path.display(), crate::error::reason(error)))
        };
        let is_empty = |folder: &Path| fs::read_dir(folder).map(|mut entries| entries.next().is_none());
        if folder.exists() && !folder.join(INDEX).is_file() && !is_empty(folder).unwrap_or(false) {
            return Err(Error::input(format!(
                "{} exists and is not the folder of a dump, which has an {INDEX}: name another folder",
                folder.display()
            )));
        }
        fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
        // A dump is whole when its index is there.
        match fs::remove_file(folder.join(INDEX)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(folder, &error)),
            Ok(()) | Err(_) => {}
        }
        for stage in Stage::ALL {
            // Of an earlier dump, perhaps.
            if !self.stages.contains_key(&stage) {
                _ = fs::remove_file(folder.join(stage.file_name()));
            }
        }
        if self.assignment.is_none() {
            _ = fs::remove_file(folder.join(ASSIGNMENT));
        }
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            replace_file(&path, text.as_bytes()).map_err(|error| failed(&path, &error))
        };
        for (stage, text) in &self.stages {
            write(stage.file_name(), text)?;
        }
        write(CONFIG, &self.config)?;
        self.assignment.as_ref().map_or(Ok(()), |text| write(ASSIGNMENT, text))?;
        let entry = |(stage, text): (&Stage, &String)| IndexEntry {
            stage: stage.name().to_owned(),
            file: stage.file_name().to_owned(),
            about: stage.about().to_owned(),
            bytes: text.len(),
            sha256: sha256(text.as_bytes()),
        };
        let index = Index {
            lmc: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.name.clone(),
            target: self.target.clone(),
            config: CONFIG.to_owned(),
            stages: self.stages.iter().map(entry).collect(),
            attention_flops: self.attention_flops.clone(),
            xla_cost_analysis: self.cost_analysis.clone(),
            compiled_memory: self.memory.clone(),
        };
        let json = serde_json::to_string_pretty(&index).map_err(|error| Error::run(format!("the index: {error}")))?;
        write(INDEX, &(json + "\n"))
    }

    /// Reads what [`Dump::write`] wrote.
    ///
    /// # Errors
    /// If the folder is none of a dump, or a file is missing or not what the index says.
    pub fn read(folder: &Path) -> Result<Dump> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|error| Error::cannot_read("the dump's", &path, &error))
        };
        let wrong = |what: String| {
            Error::input(format!("the dump {}: {what}; make it anew with `lmc dump --stage all`", folder.display()))
        };
        let index: Index =
            serde_json::from_str(&read(INDEX)?).map_err(|error| wrong(format!("{INDEX} cannot be read: {error}")))?;
        let mut stages = BTreeMap::new();
        for entry in &index.stages {
            let Some(stage) = Stage::ALL.into_iter().find(|stage| stage.name() == entry.stage) else {
                return Err(wrong(format!("{INDEX} has a stage `{}` that this version does not know", entry.stage)));
            };
            let text = read(stage.file_name())?;
            if sha256(text.as_bytes()) != entry.sha256 {
                return Err(wrong(format!("{} is not the file that {INDEX} lists", stage.file_name())));
            }
            stages.insert(stage, text);
        }
        Ok(Dump {
            name: index.name,
            target: index.target,
            config: read(CONFIG)?,
            assignment: stages.contains_key(&Stage::Buffers).then(|| read(ASSIGNMENT)).transpose()?,
            stages,
            attention_flops: index.attention_flops,
            cost_analysis: index.xla_cost_analysis,
            memory: index.compiled_memory,
        })
    }

    /// The text of a stage, if the dump has it.
    pub fn stage(&self, stage: Stage) -> Option<&str> {
        self.stages.get(&stage).map(String::as_str)
    }
}
