//! `dump`, `explain` and `inspect`: what is seen of a training step.

use std::fs;

use serde_json::Value;

use crate::browser::{browse, chromium};
use crate::{Folder, has};

#[test]
fn every_stage_is_shown() {
    let folder = Folder::new();
    let dump = |stage: &str, more: &[&str]| folder.ok(&[&["dump", "run.toml", "--stage", stage], more].concat()).stdout;
    for stage in ["graph", "grad", "step"] {
        for locations in [&[][..], &["--locations"]] {
            let text = dump(stage, locations);
            let func = lmc_graph::text::parse("dumped", &text).unwrap_or_else(|error| panic!("{stage}: {error}"));
            lmc_graph::verify(&func).unwrap_or_else(|error| panic!("{stage}: {error}"));
            // Parsing numbers the values anew, in order; printing what was parsed changes nothing more.
            let printed = func.to_string();
            let again = lmc_graph::text::parse("printed", &printed).unwrap_or_else(|error| panic!("{stage}: {error}"));
            assert!(again.to_string() == printed, "{stage} reads back as it is");
            assert_eq!((func.params.len(), printed.lines().count()), (again.params.len(), text.lines().count()));
        }
        has(&dump(stage, &["--locations"]), &["loc(\"transformer.h.0.attn\" \"models/src/"]);
    }
    for (stage, parts) in [
        ("stablehlo", &["module @", "stablehlo.dot_general", "loc("][..]),
        ("report", &["dot", "attention"]),
        ("hlo", &["HloModule", "ENTRY", "dot(", "op_name=\"vjp(transformer.h.0.mlp.c_fc)\""]),
        ("optimized", &["HloModule", "ENTRY", "is_scheduled=true"]),
        ("buffers", &["alive at the peak", "weights", "parameter transformer.wte.weight", "of transformer.h.0."]),
    ] {
        let text = dump(stage, &[]);
        has(&text, parts);
        let silent = folder.ok(&["dump", "run.toml", "--stage", stage, "-o", "out.txt"]).stdout;
        assert_eq!(silent, "", "{stage}");
        assert!(folder.read("out.txt") == text, "{stage} is the same each time");
    }
    assert!(!folder.path("run").exists(), "no run was begun");
}

#[test]
fn generic_programs_are_stablehlo_alone() {
    let folder = Folder::new();
    let dump = |stage: &str| folder.lmc(&["dump", "run.toml", "--target", "generic", "--stage", stage]);
    let text = dump("stablehlo").stdout;
    has(&text, &["module @", "stablehlo.dot_general", "stablehlo.exponential"]);
    assert!(!text.contains("custom_call"), "{text}");
    for stage in ["optimized", "ptx"] {
        let ran = dump(stage);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        has(&ran.stderr, &["h200"]);
    }
    // A stage that is there for every target is that of the CPU.
    assert_eq!(dump("grad").stdout, folder.ok(&["dump", "run.toml", "--stage", "grad"]).stdout);
}

#[test]
fn a_layer_is_shown_alone() {
    let folder = Folder::new();
    let dump = |stage: &str, layer: &str| folder.ok(&["dump", "run.toml", "--stage", stage, "--layer", layer]).stdout;
    let attention = "transformer.h.0.attn";
    let text = dump("step", attention);
    for func in lmc_graph::text::parse_all("layer", &text).unwrap_or_else(|error| panic!("{error}")) {
        lmc_graph::verify(&func.func).unwrap_or_else(|error| panic!("{error}"));
    }
    has(&text, &["scaled_dot_product_attention(", "scaled_dot_product_attention_backward("]);
    has(&text, &["\"transformer.h.0.attn.c_attn.weight\""]);
    let stablehlo = dump("stablehlo", attention);
    has(&stablehlo, &["func.func public @main(", "\"transformer.h.0.attn.c_attn.weight\""]);
    assert!(stablehlo.len() < folder.ok(&["dump", "run.toml", "--stage", "stablehlo"]).stdout.len() / 2);
    has(&dump("report", "transformer.h.*.mlp"), &["transformer.h.0.mlp.c_fc"]);
    let optimized = dump("optimized", attention);
    has(&optimized, &[attention, "ENTRY"]);
    assert!(!optimized.contains("op_name=\"transformer.h.0.mlp"), "{optimized}");
    has(&dump("buffers", attention), &["of transformer.h.0.attn"]);
    let ran = folder.lmc(&["dump", "run.toml", "--stage", "step", "--layer", "transformer.h.1"]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["no layer `transformer.h.1`", "did you mean `transformer.h.0`?"]);
}

/// Sizes that are known are all that a stage needs of data.
#[test]
fn data_need_not_be_there() {
    let folder = Folder::new();
    fs::remove_file(folder.path("names.txt")).expect("it was there");
    let known = ["--set", "model.vocab_size=21"];
    has(&folder.ok(&[&["dump", "run.toml", "--stage", "grad"], &known[..]].concat()).stdout, &["f32[21,8]"]);
    has(&folder.ok(&[&["explain", "run.toml"], &known[..]].concat()).stdout, &["attention  fused, all 2"]);
    let ran = folder.lmc(&["dump", "run.toml", "--stage", "grad"]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["names.txt"]);
}

#[test]
fn all_stages_are_a_folder_with_an_index() {
    let folder = Folder::new();
    folder.ok(&["dump", "run.toml", "--stage", "all", "-o", "first"]);
    folder.ok(&["dump", "run.toml", "--stage", "all", "-o", "second"]);
    let index: Value = serde_json::from_str(&folder.read("first/index.json")).expect("JSON");
    assert!(folder.read("second/index.json") == folder.read("first/index.json"), "hashes and all");
    let stages = index["stages"].as_array().expect("a list");
    let names: Vec<&str> = stages.iter().map(|stage| stage["stage"].as_str().expect("a name")).collect();
    assert_eq!(names, ["graph", "grad", "step", "stablehlo", "report", "hlo", "optimized", "buffers"]);
    for stage in stages {
        let file = format!("first/{}", stage["file"].as_str().expect("a name"));
        assert_eq!(stage["bytes"].as_u64(), Some(folder.read(&file).len() as u64), "{file}");
    }
    assert!(index["xla_cost_analysis"]["flops"].as_f64().is_some_and(|flops| flops > 0.0), "{index}");
    assert!(index["compiled_memory"]["temporaries"].as_u64().is_some_and(|bytes| bytes > 0), "{index}");

    // A second dump takes the place of the first, and nothing else's.
    folder.ok(&["dump", "run.toml", "--stage", "all", "-o", "first", "--set", "train.micro_batch_size=2"]);
    assert!(folder.read("first/graph.lmir") != folder.read("second/graph.lmir"));
    for (args, parts) in [
        (&["-o", "."][..], &["exists and is not the folder of a dump"][..]),
        (&[], &["--output"]),
        (&["-o", "third", "--layer", "transformer"], &["--layer"]),
    ] {
        let ran = folder.lmc(&[&["dump", "run.toml", "--stage", "all"], args].concat());
        assert_eq!(ran.code, 2, "{args:?}");
        has(&ran.stderr, parts);
    }
    folder.write("second/step.lmir", "func @f() -> () {\n  return\n}\n");
    let ran = folder.lmc(&["inspect", "second"]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["step.lmir is not the file that index.json lists"]);
}

#[test]
fn the_first_lines_say_whether_attention_is_fused() {
    let folder = Folder::new();
    let text = folder.ok(&["explain", "run.toml"]).stdout;
    let first: Vec<&str> = text.lines().take(10).collect();
    has(
        &first.join("\n"),
        &["attention  fused, all 2", "1 forward: attention, lmc's kernel", "1 backward", "FLOP a step"],
    );
    has(&text, &["transformer.h.*.mlp.c_fc", "optimizer", "operands -> results"]);
    let text = folder.ok(&["explain", "run.toml", "transformer.h.*.mlp"]).stdout;
    has(&text, &["transformer.h.*.mlp.c_fc", "attention  none"]);
    assert!(!text.contains("c_attn"), "{text}");
    let text = folder.ok(&["explain", "run.toml", "dot_general"]).stdout;
    assert!(!text.contains("attention  fused"), "{text}");
    // Advice is about what was asked for.
    let chunked = ["--set", "train.loss_chunk=4", "--set", "train.remat=\"layer\""];
    let advice = |subject: &[&str]| folder.ok(&[&["explain", "run.toml"], subject, &chunked[..]].concat()).stdout;
    let blocks = "blocks are computed again";
    has(&advice(&[]), &[blocks]);
    has(&advice(&["transformer.h.*.mlp"]), &[blocks]);
    // The head, whose loss is in chunks, is not computed again.
    let of_head = advice(&["transformer.wte"]);
    assert!(!of_head.contains("again"), "{of_head}");
    let ran = folder.lmc(&["explain", "run.toml", "transformer.h.0.mpl"]);
    assert_eq!(ran.code, 2);
    has(&ran.stderr, &["no layer `transformer.h.0.mpl`", "`transformer.h.0.mlp`"]);
}

/// The sum over layers of the compiled program is XLA's own count, with loops, recomputation and narrow floats too.
#[test]
fn operations_by_layer_add_up_to_xlas_count() {
    let folder = Folder::new();
    for more in [
        &[][..],
        &["--set", "train.grad_accum_steps=2", "--set", "train.layers=\"scan\"", "--set", "train.loss_chunk=4"],
        &["--set", "train.remat=\"layer\"", "--set", "train.precision=\"bfloat16\"", "--set", "model.n_layer=2"],
        &["--set", "optimizer.kind=\"muon\"", "--set", "model.resid_pdrop=0.1"],
    ] {
        let ran = folder.ok(&[&["explain", "run.toml", "--compiled", "--json"], more].concat());
        let json: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
        let compiled = &json["compiled"];
        let ratio = number(&compiled["flops_loops_once"]) / number(&compiled["xla_flops"]);
        assert!((ratio - 1.0).abs() < 0.02, "{more:?}: {ratio}");
        let sum = |layers: &Value, pass: &str| -> f64 {
            let layers = layers.as_array().expect("a list");
            layers.iter().map(|layer| number(&layer["passes"][pass]["flops"])).sum()
        };
        // Every pass has work that is found in both; what is computed again the CPU's compiler may merge.
        for pass in ["forward", "backward", "optimizer"] {
            assert!(sum(&json["layers"], pass) > 0.0 && sum(&compiled["layers"], pass) > 0.0, "{more:?}: {pass}");
        }
        assert_eq!(
            sum(&json["layers"], "recompute") > 0.0,
            more.join(" ").contains("remat") || more.join(" ").contains("scan")
        );
    }
}

#[test]
fn a_page_shows_the_step() {
    let folder = Folder::new();
    assert_eq!(folder.ok(&["inspect", "run.toml"]).stdout, "inspect.html\n");
    let page = folder.read("inspect.html");
    has(&page, &["<title>run.toml · lmc inspect</title>", "\"id\":\"optimized\"", "scaled_dot_product_attention"]);
    for forbidden in ["http://", "https://", "src=", "@import"] {
        let rest = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!rest.contains(forbidden), "the page is complete in itself, but has {forbidden}");
    }
    folder.ok(&["dump", "run.toml", "--stage", "all", "-o", "dump"]);
    folder.ok(&["inspect", "dump", "-o", "again.html"]);
    assert!(folder.read("again.html") == page, "a dump has all that the page shows");
    folder.ok(&["inspect", "run.toml", "--set", "train.remat=\"layer\"", "--against", "dump", "-o", "compared.html"]);
    has(&folder.read("compared.html"), &["[\"train.remat\",\"\\\"none\\\"\",\"\\\"layer\\\"\"]"]);
    folder.ok(&["inspect", "run.toml", "--no-compile", "-o", "quick.html"]);
    assert!(!folder.read("quick.html").contains("\"id\":\"optimized\""));
    for (args, parts) in [
        (&["inspect", "."][..], &["is not a dump", "lmc dump CONFIG --stage all"][..]),
        (&["inspect", "dump", "--set", "train.steps=1"], &["--set"]),
        (&["inspect", "run.toml", "--no-compile", "-o", "no/such/folder.html"], &["cannot write no/such/folder.html"]),
    ] {
        let ran = folder.lmc(args);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        has(&ran.stderr, parts);
    }

    let Some(chromium) = chromium("a_page_shows_the_step, in part") else { return };
    // Scripts at the end do what a reader would, and leave what came of it in the title.
    let visit = |name: &str, script: &str, parts: &[&str]| {
        let page = folder.read(name).replace("</body>", &format!("<script>{script}</script></body>"));
        folder.write("visited.html", page);
        let (document, console) = browse(&chromium, &folder.path("visited.html"));
        assert_eq!(console, "", "{name}: {script}");
        has(&document, parts);
    };
    for (name, stages) in [("inspect.html", 6), ("quick.html", 4), ("compared.html", 6)] {
        let script = "for (const raw of DATA.stages) choose({ stage: raw.id });
            const layers = [...stage(state.stage).scopes.keys()];
            for (const scope of layers) choose({ scope });
            for (let op = 0; op < stage(state.stage).count; op += 7) choose({ op });
            document.title = `went through ${DATA.stages.length} stages`;";
        visit(name, script, &[&format!("<title>went through {stages} stages</title>"), "class=\"box "]);
    }
    let script = "choose({ stage: 'step', scope: 'transformer.h.0.attn' }); search('dot_general backward');
        const all = state.found.every((op) => stage('step').haystack[op].includes('backward'));
        document.title = `${all} ${state.found.length > 4}`; ";
    visit("inspect.html", script, &["<title>true true</title>", "found"]);
    let script = "state.view = 'memory'; draw(); state.at = 3; drawAlive();
        document.title = `${document.querySelectorAll('#memory path').length} areas`;";
    visit("inspect.html", script, &["<title>6 areas</title>", "Alive at 3"]);
    visit("quick.html", "state.view = 'memory'; draw();", &["made without compiling"]);
    visit("compared.html", "state.view = 'compare'; draw();", &["train.remat", "kinds of op differ"]);
}
