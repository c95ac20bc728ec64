//! The parts of a page put together: as a folder of files that one can read, or as one file.

use serde_json::Value;

use super::Size;
use crate::run::{escape, fill};

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `index.html` with its style, scripts and data beside it.
    Folder,
    /// One file of HTML with everything in it.
    SingleFile,
}

/// Files by name, of which the first is the page.
pub type Files = Vec<(String, String)>;

/// What runs in the worker, in the order in which one part uses the other.
const WORKER: [(&str, &str); 9] = [
    ("random", include_str!("page/worker/random.js")),
    ("initial", include_str!("page/worker/initial.js")),
    ("text", include_str!("page/worker/text.js")),
    ("rows", include_str!("page/worker/rows.js")),
    ("instance", include_str!("page/worker/instance.js")),
    ("trainer", include_str!("page/worker/trainer.js")),
    ("viewer", include_str!("page/worker/viewer.js")),
    ("lens", include_str!("page/worker/lens.js")),
    ("session", include_str!("page/worker/session.js")),
];

/// What runs in the page.
const APP: [(&str, &str); 8] = [
    ("dom", include_str!("page/app/dom.js")),
    ("link", include_str!("page/app/link.js")),
    ("chart", include_str!("page/app/chart.js")),
    ("texts", include_str!("page/app/texts.js")),
    ("attention", include_str!("page/app/attention.js")),
    ("program", include_str!("page/app/program.js")),
    ("files", include_str!("page/app/files.js")),
    ("app", include_str!("page/app/app.js")),
];

/// The page of this data and these sizes.
///
/// Browsers give a page that is opened from disk neither modules nor files nor workers of its own, only scripts. So every
/// part is a plain script, and the worker is a function that the page starts from its text. The code of a size is a script
/// too, which the page loads when the size is chosen; that of the first at once.
pub(super) fn assemble(title: &str, data: &Value, sizes: &[Size], form: Form) -> Files {
    // Within a script element only `</` could end it early.
    let json = |value: &Value| value.to_string().replace('<', "\\u003c");
    let data = format!("\"use strict\";\nconst LMC = {};\nLMC.code = {{}};\n", json(data));
    let code = |size: &Size| format!("LMC.code[\"{}\"] = {};\n", size.name, json(&size.code));
    let file = |size: &Size| format!("size-{}.js", size.name);
    let worker = format!(
        "\"use strict\";\nfunction lmcWorker(scope) {{\n{}{}}}\n\
         if (typeof module !== \"undefined\") module.exports = lmcWorker;\n",
        joined(&WORKER),
        include_str!("page/worker/main.js")
    );
    let app = format!("\"use strict\";\n(() => {{\n{}}})();\n", joined(&APP));
    let style = include_str!("page/style.css").to_owned();
    let page = |style: &str, scripts: &str| {
        let parts = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("title", &escape(title)),
            ("policy", POLICY),
            ("style", style),
            ("scripts", scripts),
        ];
        fill(include_str!("page/index.html"), &parts)
    };
    match form {
        Form::Folder => {
            let first = sizes.first().map(&file);
            let scripts =
                ["model.js".to_owned()].into_iter().chain(first).chain(["worker.js", "app.js"].map(str::to_owned));
            let scripts: String = scripts.map(|name| format!("<script src=\"{name}\"></script>\n")).collect();
            let index = page("<link rel=\"stylesheet\" href=\"style.css\">", scripts.trim_end());
            let fixed = [
                ("index.html", index),
                ("style.css", style),
                ("app.js", app),
                ("worker.js", worker),
                ("model.js", data),
            ];
            let fixed = fixed.into_iter().map(|(name, text)| (name.to_owned(), text));
            fixed.chain(sizes.iter().map(|size| (file(size), code(size)))).collect()
        }
        Form::SingleFile => {
            let style = format!("<style>\n{style}</style>");
            let scripts = [data].into_iter().chain(sizes.iter().map(code)).chain([worker, app]);
            let scripts: String = scripts.map(|script| format!("<script>\n{script}</script>\n")).collect();
            vec![("index.html".to_owned(), page(&style, scripts.trim_end()))]
        }
    }
}

/// What the browser lets the page do: its own scripts and style and a worker from them, and no network.
const POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' blob: file:; \
                      style-src 'self' 'unsafe-inline' file:; img-src data:; worker-src blob:; connect-src 'none'; \
                      base-uri 'none'; form-action 'none'";

fn joined(parts: &[(&str, &str)]) -> String {
    parts.iter().map(|(name, text)| format!("// {name}\n{text}\n")).collect()
}
