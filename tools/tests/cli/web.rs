//! `export --web`: the page as a folder and as one file, in Node and in a browser.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::bad_input::{Case, check};
use crate::browser::chromium;
use crate::devtools::Browser;
use crate::{Folder, events, has, text};

/// Node: what `NODE` names, else what is on the path. Where there is none, `test` is said to be skipped.
fn node(test: &str) -> Option<PathBuf> {
    let named = std::env::var_os("NODE").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        named.or_else(|| std::env::split_paths(&path).map(|folder| folder.join("node")).find(|path| path.is_file()));
    if found.is_none() {
        // Past the capture of the test's output, for nothing is skipped silently.
        _ = writeln!(std::io::stderr(), "1 test skipped: {test}, for there is no Node (see NODE)");
    }
    found
}

/// Runs a script in Node with the page's own worker, `host`, and its data, `LMC`, and returns the JSON that it prints.
#[track_caller]
fn run_in_node(node: &Path, page: &Path, script: &str) -> Value {
    let prelude = format!(
        "const fs = require('fs'), folder = {:?};\n\
         const scripts = fs.readdirSync(folder).filter((name) => /^(model|size-.*)\\.js$/.test(name));\n\
         const read = (name) => fs.readFileSync(folder + '/' + name, 'utf8');\n\
         const LMC = new Function(scripts.map(read).join('\\n') + '; return LMC')();\n\
         for (const preset of LMC.presets) Object.assign(preset, LMC.code[preset.name]);\n\
         const host = require(folder + '/worker.js')({{}});\n",
        text(page)
    );
    let main =
        format!("(async () => {{ {script} }})().catch((error) => {{ console.error(error); process.exit(1); }});");
    let ran = Command::new(node).args(["-e", &(prelude + &main)]).output().expect("Node starts");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice(&ran.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&ran.stdout)))
}

#[test]
fn what_a_page_cannot_do_is_refused() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path("full/inside")).expect("a folder is made");
    folder.write("shard.bin", crate::shard(&[1; 500], true));
    folder.write("bare.safetensors", crate::safetensors(&[("w", &[2])]));
    macro_rules! set {
        ($($setting:expr),*) => {
            &["export", "--web", "run.toml", "-o", "page" $(, "--set", $setting)*]
        };
    }
    let cases: &[Case<'_>] = &[
        (&["export", "run.toml"], &["--web"]),
        (&["export", "--web", "none.toml"], &["none.toml", "no such file"]),
        (&["export", "--web", "run.toml", "-o", "full"], &["full is there and not an empty folder"]),
        (&["export", "--web", "run.toml", "--single-file", "-o", "no/page.html"], &["cannot write no/page.html"]),
        (
            set!("data.train=\"shard.bin\"", "data.documents=\"none\"", "model.vocab_size=30"),
            &["a page reads its text itself", "^^^"],
        ),
        (set!("data.tokenizer=\"tokenizer.json\""), &["tokenizer"]),
        (set!("train.precision=\"bfloat16\""), &["browsers compute in float32", "^^^"]),
        (set!("model.init_from=\"weights.safetensors\""), &["random weights", "upload"]),
        (set!("model.resid_pdrop=0.1"), &["dropout", "set its rates to 0"]),
        (set!("data.train=\"missing.txt\""), &["missing.txt", "no such file"]),
        (&["generate", "bare.safetensors"], &["bare.safetensors has weights only", "lmc export --web"]),
    ];
    check(&folder, cases);
}

#[test]
fn a_page_is_complete_in_itself() {
    let folder = Folder::new();
    let ran = folder.ok(&["export", "--web", "run.toml", "-o", "page"]);
    assert_eq!(ran.stdout, "page/index.html\n");
    let mut names: Vec<_> = fs::read_dir(folder.path("page"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "app.js",
            "index.html",
            "model.js",
            "size-1x16.js",
            "size-1x8.js",
            "size-2x32.js",
            "size-4x64.js",
            "style.css",
            "worker.js"
        ]
    );
    folder.ok(&["export", "--web", "run.toml", "--single-file", "-o", "page.html"]);
    for file in ["page/app.js", "page/index.html", "page/style.css", "page/worker.js", "page.html"] {
        let page = folder.read(file).replace("http://www.w3.org/2000/svg", "");
        for forbidden in ["http://", "https://", "@import", "fetch(", "url("] {
            assert!(!page.contains(forbidden), "{file} has {forbidden}");
        }
    }
    assert!(!folder.read("page.html").contains("src="));
    has(&folder.read("page.html"), &["<title>A language model learns names</title>", "connect-src", "const LMC = {"]);
    // What is made twice is the same.
    folder.ok(&["export", "--web", "run.toml", "-o", "again"]);
    for name in names.iter().filter_map(|name| name.to_str()) {
        assert_eq!(folder.read(&format!("page/{name}")), folder.read(&format!("again/{name}")), "{name}");
    }
}

/// Batches and initial weights of the page are those of the native run, bit for bit.
#[test]
fn a_page_has_the_batches_and_the_weights_of_the_native_run() {
    let Some(node) = node("a_page_has_the_batches_and_the_weights_of_the_native_run") else { return };
    const SCRIPT: &str = "
        const { settings, batch, weights, seed } = LMC.presets[0];
        const tokenizer = host.tokenizerOf(settings.tokenizer, LMC.texts.train, settings.documents === 'lines');
        const words = host.seedOf(seed);
        const rows = host.rowsOf(settings, LMC.texts, tokenizer, batch.seq_len, words);
        const some = (rows, from, to) => {
          const all = [];
          for (let row = from; row < to; row++) {
            const [tokens, labels] = [new Int32Array(batch.seq_len), new Int32Array(batch.seq_len)];
            rows.fill(row, tokens, labels, 0);
            all.push([...tokens], [...labels]);
          }
          return all;
        };
        const each = batch.micro_batches * batch.micro_batch_size;
        console.log(JSON.stringify({
          train: [0, 1, 7, 40].map((step) => some(rows.train, step * each, (step + 1) * each)),
          held: some(rows.held, 0, 8),
          weights: weights.map((weight) => {
            const elements = new Float32Array(weight.shape.reduce((a, b) => a * b, 1));
            host.fillInitial(weight, elements, words);
            return [...new Uint32Array(elements.buffer)];
          }),
        }));";
    let folder = Folder::new();
    folder.write("prose.txt", "It was – as ever – a day of rain.\r\nNobody came; ümläute did.\n".repeat(9));
    let long = crate::names().lines().map(|line| line.repeat(3) + "\n").collect::<String>();
    folder.write("long.txt", long);
    for (number, sets) in [
        &[][..],
        &["train.seed=9223372036854775807", "data.val_fraction=0.31"],
        &["data.packing=true", "train.seed=3"],
        &["data.train=\"long.txt\"", "train.grad_accum_steps=2"],
        &["data.order=\"sequential\""],
        &["data.tokenizer=\"byte\""],
        &["data.train=[\"names.txt\", \"long.txt\"]"],
        &["data.documents=\"none\"", "data.train=\"prose.txt\"", "train.seed=5"],
        &[
            "data.documents=\"none\"",
            "data.train=\"prose.txt\"",
            "data.tokenizer=\"byte\"",
            "data.order=\"sequential\"",
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let page = format!("page{number}");
        let set = sets.iter().flat_map(|setting| ["--set", setting]);
        let args: Vec<&str> =
            ["export", "--web", "run.toml", "--one-size", "-o", &page].into_iter().chain(set).collect();
        folder.ok(&args);
        let found = run_in_node(&node, &folder.path(&page), SCRIPT);

        let settings: Vec<String> = sets.iter().map(|setting| (*setting).to_owned()).collect();
        // Paths of the config are looked for beside it.
        let config = lmc::config::Config::read(&folder.path("run.toml"), &settings).expect("a config");
        let (config, data) = lmc::data::Data::open(&config, None).expect("data");
        let ids = |literal: &lmc::graph::Literal| literal.elements::<i32>();
        let seq_len = config.train.seq_len;
        let rows = |tokens: &[i32], labels: &[i32]| -> Vec<Vec<i32>> {
            let pairs = tokens.chunks(seq_len).zip(labels.chunks(seq_len));
            pairs.flat_map(|(tokens, labels)| [tokens.to_vec(), labels.to_vec()]).collect()
        };
        let batches: Vec<_> = [0, 1, 7, 40]
            .map(|step| data.batches(step..step + 1).expect("a thread").next().expect("a batch").expect("a batch"))
            .iter()
            .map(|batch| rows(&ids(&batch.tokens), &ids(&batch.labels)))
            .collect();
        assert_eq!(found["train"], json!(batches), "{sets:?}");
        let held: Vec<Vec<i32>> = data
            .held_out_batches(1, 2)
            .flat_map(|batch| batch.map(|batch| rows(&ids(&batch.tokens), &ids(&batch.labels))).expect("a batch"))
            .collect();
        let of_page = found["held"].as_array().expect("rows");
        assert_eq!(
            of_page[..held.len().min(16)],
            json!(held).as_array().expect("rows")[..held.len().min(16)],
            "{sets:?}"
        );
        let step_config = lmc::model::step_config(&config).expect("a model");
        let weights: Vec<Vec<u32>> = lmc::models::init::initialize(&step_config.loss_func().specs, config.train.seed)
            .values()
            .map(|weight| weight.elements::<f32>().iter().map(|element| element.to_bits()).collect())
            .collect();
        assert_eq!(found["weights"], json!(weights), "{sets:?}");
    }
}

/// The losses of a whole run in Node are those of XLA's program but for rounding, and those of the interpreter bit for bit.
#[test]
fn a_page_trains_as_the_native_run_does() {
    let Some(node) = node("a_page_trains_as_the_native_run_does") else { return };
    let folder = Folder::new();
    const SETS: [&str; 4] = ["--set", "train.steps=40", "--set", "train.grad_accum_steps=2"];
    folder.ok(&[&["train", "run.toml", "--out", "native"][..], &SETS].concat());
    folder.ok(&[&["export", "--web", "run.toml", "--one-size", "-o", "page"][..], &SETS].concat());
    let script = "
        const preset = LMC.presets[0];
        const tokenizer = host.tokenizerOf(preset.settings.tokenizer, LMC.texts.train, true);
        const seed = host.seedOf(preset.seed);
        const rows = host.rowsOf(preset.settings, LMC.texts, tokenizer, preset.batch.seq_len, seed);
        const module = await WebAssembly.compile(await host.unpacked(preset.module));
        const trainer = new host.Trainer(new host.Instance(module, preset.layout), preset, rows, seed);
        const losses = [];
        while (!trainer.finished) losses.push(trainer.advance());
        console.log(JSON.stringify(losses));";
    let losses = run_in_node(&node, &folder.path("page"), script);
    let losses: Vec<f64> = losses.as_array().expect("losses").iter().filter_map(Value::as_f64).collect();
    let losses_of = |run: &str| -> Vec<f64> {
        events(&folder.metrics(run), "train").iter().filter_map(|line| line["loss"].as_f64()).collect()
    };
    let native = losses_of("native");
    folder.ok(&[&["train", "run.toml", "--out", "interpreted", "--device", "wasm"][..], &SETS].concat());
    assert_eq!(losses, losses_of("interpreted"));
    assert_eq!((losses.len(), native.len()), (40, 40));
    for (step, (found, expected)) in losses.iter().zip(&native).enumerate() {
        // Sums of f32 in another order, amplified by 40 steps of Adam.
        assert!((found - expected).abs() < 1e-4, "step {}: {found}, not {expected}", step + 1);
    }
    assert!(losses[39] < losses[0] - 0.1, "it learns: {losses:?}");
}

/// The page at work: it trains, writes, looks back, takes texts and weights, and gives weights to `lmc generate`.
#[test]
fn a_browser_trains() {
    let Some(chromium) = chromium("a_browser_trains") else { return };
    let folder = Folder::new();
    const SETS: [&str; 4] = ["--set", "train.steps=60", "--set", "train.seed=7"];
    folder.ok(&[&["export", "--web", "run.toml", "-o", "page"][..], &SETS].concat());
    folder.ok(&[&["export", "--web", "run.toml", "--single-file", "-o", "page.html"][..], &SETS].concat());
    let mut browser = Browser::open(&chromium);
    // An error, to see that errors are seen.
    folder.write("wrong.html", "<script>nowhere()</script>");
    browser.visit(&folder.path("wrong.html"), "");
    browser.wait("true");
    has(&browser.console.join("\n"), &["nowhere is not defined"]);
    browser.console.clear();

    const TEXTS: &str = "[...document.querySelectorAll('#written li')].map((item) => item.dataset.text).join(' ')";
    const STATE: &str = "document.getElementById('state').textContent";
    const CLICK_PLAY: &str = "document.getElementById('play').click()";
    for (page, width, dark) in [("page/index.html", 1200, false), ("page.html", 390, true)] {
        browser.look(width, 800, dark);
        browser.visit(&folder.path(page), "speed=10");
        browser
            .wait("document.querySelectorAll('#written li').length === 3 && document.documentElement.dataset.step > 0");
        browser.get(CLICK_PLAY);
        let before = browser.get(TEXTS);
        browser.enter("rate", "100", "input");
        browser.get(CLICK_PLAY);
        browser.wait(&format!("{STATE}.startsWith('done')"));
        browser.wait("document.documentElement.dataset.step === '60'");
        assert_ne!(browser.get(TEXTS), before, "{page}: it writes something else");
        // Nothing is wider than the window.
        assert_eq!(browser.get("document.documentElement.scrollWidth <= innerWidth"), true, "{page}");
        let theme = if dark { "dark" } else { "light" };
        assert_eq!(browser.get("document.documentElement.dataset.theme"), theme);
        // Curve, bars, maps, boxes and heat maps are drawn.
        let drawn = "[...document.querySelectorAll('canvas')].map((canvas) => {
            const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
            copy.drawImage(canvas, 0, 0);
            return new Set(new Uint32Array(copy.getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size;
        })";
        // A weight, its two moments, and the value of the first operation that has one.
        browser.wait("document.querySelectorAll('.tensors canvas').length === 4");
        browser.wait(&format!("{drawn}.every((colours) => colours > 3)"));
        assert_eq!(browser.get("document.querySelectorAll('#attention canvas').length"), 2, "two heads");
        assert_eq!(browser.get("document.querySelectorAll('#bars button').length"), 21, "20 letters and the end");
        has(
            &browser.get("document.getElementById('boxes').innerText").to_string(),
            &["transformer", "wte", "h.0", "ln_1", "attn", "c_attn", "mlp"],
        );
        assert_eq!(browser.console, [""; 0], "{page}");
    }

    // What is looked at: an earlier state writes as it did then, a prompt is gone on with, temperature 0 is certain.
    let live = browser.get(TEXTS);
    browser.enter("past", "0", "input");
    browser.wait("document.documentElement.dataset.step === '0'");
    assert_ne!(browser.get(TEXTS), live);
    browser.enter("past", "1e9", "input");
    browser.wait("document.documentElement.dataset.step === '60'");
    assert_eq!(browser.get(TEXTS), live, "the present is as it was");
    browser.enter("prompt", "ab", "input");
    browser.wait("[...document.querySelectorAll('#written li')].every((item) => item.dataset.text.startsWith('ab'))");
    browser.enter("temperature", "0", "input");
    browser.wait("new Set([...document.querySelectorAll('#written li')].map((item) => item.dataset.text)).size === 1");
    has(browser.get("location.hash").as_str().expect("an address"), &["temperature=0", "after=ab"]);
    let certain = browser.get("document.querySelector('#written li').dataset.text");
    // Above 0 the page draws what the native run draws, for the key is the seed's.
    browser.enter("temperature", "0.9", "input");
    browser.wait("new Set([...document.querySelectorAll('#written li')].map((item) => item.dataset.text)).size > 1");
    let drawn =
        browser.get("[...document.querySelectorAll('#written li')].map((li) => li.dataset.text + '\\n').join('')");

    // Down, into `lmc generate`, which goes on with the same text; and up again.
    let downloads = folder.path("downloads");
    fs::create_dir(&downloads).expect("a folder is made");
    browser.call("Browser.setDownloadBehavior", json!({ "behavior": "allow", "downloadPath": text(&downloads) }));
    browser.get("document.getElementById('download').click()");
    browser.wait("document.getElementById('weights-note').textContent.startsWith('Saved as of step 60')");
    let file = downloads.join("model.safetensors");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !file.is_file() && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let args = ["generate", text(&file), "--prompt", "ab", "--temperature", "0", "--samples", "1"];
    assert_eq!(folder.ok(&args).stdout.trim_end(), certain.as_str().expect("a text"));
    let args = ["generate", text(&file), "--prompt", "ab", "--temperature", "0.9"];
    assert_eq!(folder.ok(&args).stdout, drawn.as_str().expect("texts"));
    browser.choose_file("weights-file", &file);
    browser.wait("document.getElementById('weights-note').textContent.startsWith('Loaded')");
    folder.write("other.safetensors", crate::safetensors(&[("transformer.wte.weight", &[3, 3])]));
    browser.choose_file("weights-file", &folder.path("other.safetensors"));
    browser.wait("document.getElementById('weights-note').textContent.includes('of another size')");

    // A text of one's own, with more letters than the model has: it says what was done.
    folder.write("own.txt", "Ünder\nOver\nzz9\nAlso\nGood\nWords\n".repeat(5));
    browser.choose_file("text-file", &folder.path("own.txt"));
    browser.wait("document.getElementById('text-note').textContent.startsWith('Training on own.txt')");
    browser.wait(&format!("{STATE}.startsWith('done')"));
    // Another size, by the keyboard's own means, and the same run by its address.
    browser.enter("size", "1", "change");
    browser.wait("document.getElementById('size').selectedOptions[0].textContent.includes('16 wide')");
    browser.wait("document.documentElement.dataset.step > 3");
    assert_eq!(browser.console, [""; 0]);

    // The same address shows the same run.
    let mut runs = Vec::new();
    for _ in 0..2 {
        browser.visit(&folder.path("page/index.html"), "speed=100&seed=99");
        browser.wait(&format!("{STATE}.startsWith('done')"));
        browser.wait("document.documentElement.dataset.step === '60'");
        runs.push((
            browser.get(TEXTS),
            browser.get("document.getElementById('loss-chart').getAttribute('aria-label')"),
        ));
    }
    assert_eq!(runs[0].0, runs[1].0);
    assert_eq!(browser.console, [""; 0]);
}

/// What a person without a mouse or without sight meets: every control has a name, and all can be reached.
#[test]
fn a_page_can_be_used_without_mouse_and_eyes() {
    let Some(chromium) = chromium("a_page_can_be_used_without_mouse_and_eyes") else { return };
    let folder = Folder::new();
    folder.ok(&["export", "--web", "run.toml", "--one-size", "--single-file", "-o", "page.html"]);
    let mut browser = Browser::open(&chromium);
    browser.visit(&folder.path("page.html"), "");
    browser.wait("document.documentElement.dataset.step > 0 && document.querySelector('#ops button')");
    // As the browser tells assistive programs.
    let tree = browser.call("Accessibility.getFullAXTree", json!({}));
    let nodes = tree["nodes"].as_array().expect("nodes");
    let named = ["button", "slider", "textbox", "combobox", "image", "treeitem", "tab", "region", "checkbox"];
    let mut found = std::collections::BTreeSet::new();
    for node in nodes.iter().filter(|node| node["ignored"] != true) {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if named.contains(&role) {
            found.insert(role);
            let name = node["name"]["value"].as_str().unwrap_or_default();
            assert!(!name.trim().is_empty(), "a {role} without a name: {node}");
        }
    }
    for role in ["button", "slider", "textbox", "combobox", "image", "treeitem", "tab"] {
        assert!(found.contains(role), "{role} is not among {found:?}");
    }
    // The tab key comes to every control that is to be reached, and to the names.
    browser.get("document.activeElement.blur()");
    let mut reached = String::new();
    for _ in 0..40 {
        for kind in ["rawKeyDown", "keyUp"] {
            let key = json!({ "type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9 });
            browser.call("Input.dispatchKeyEvent", key);
        }
        let at =
            browser.get("(document.activeElement.id || document.activeElement.parentElement?.parentElement?.id) + ' '");
        reached.push_str(at.as_str().unwrap_or_default());
    }
    has(
        &reached,
        &[
            "theme",
            "play",
            "past",
            "rate",
            "seed",
            "written",
            "temperature",
            "prompt",
            "download",
            "copy",
            "choose-text",
        ],
    );
    assert_eq!(browser.console, [""; 0]);
}
