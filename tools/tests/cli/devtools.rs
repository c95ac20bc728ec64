//! A page in a browser without a window that tests talk to: Chromium's own protocol over a pipe.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::text;

/// A browser with one page.
pub(crate) struct Browser {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    sent: u64,
    /// What the page had to say: messages of its console, exceptions, and what the browser found wrong.
    pub(crate) console: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub(crate) fn open(chromium: &Path) -> Browser {
        let profile = tempfile::tempdir().expect("a temporary folder");
        // The protocol is spoken over the descriptors 3 and 4, which only a shell gives without unsafe code.
        let mut process = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null", "sh", text(chromium)])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", text(profile.path())))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Chromium starts");
        let to = process.stdin.take().expect("its input");
        let from = BufReader::new(process.stdout.take().expect("its output"));
        let (session, console) = (None, Vec::new());
        let mut browser = Browser { process, to, from, session, sent: 0, console, _profile: profile };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for method in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(method, json!({}));
        }
        browser
    }

    /// Sends a command and waits for its result.
    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("the browser listens");
        loop {
            let mut bytes = Vec::new();
            self.from.read_until(0, &mut bytes).expect("the browser answers");
            assert!(bytes.pop() == Some(0), "the browser has ended");
            let message: Value = serde_json::from_slice(&bytes).expect("JSON");
            if message["id"] == self.sent {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].clone();
            }
            let params = &message["params"];
            match message["method"].as_str() {
                Some("Runtime.consoleAPICalled") => self.console.push(params["args"].to_string()),
                Some("Runtime.exceptionThrown") => self.console.push(params["exceptionDetails"].to_string()),
                Some("Log.entryAdded") => self.console.push(params["entry"].to_string()),
                Some(_) | None => {}
            }
        }
    }

    /// Opens a file, with what stands behind `#`.
    pub(crate) fn visit(&mut self, page: &Path, fragment: &str) {
        // Another fragment alone would not load it anew.
        self.call("Page.navigate", json!({ "url": "about:blank" }));
        self.call("Page.navigate", json!({ "url": format!("file://{}#{fragment}", text(page)) }));
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub(crate) fn get(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(crate) fn wait(&mut self, expression: &str) {
        // Far more than anything takes, also on a busy machine.
        let until = Instant::now() + Duration::from_secs(60);
        // The page may be on its way still.
        while self.get(&format!("document.readyState === 'complete' && Boolean({expression})")) != true {
            let shown = self.get("document.body ? document.body.innerText : ''");
            assert!(Instant::now() < until, "waited for {expression}\n{}\n{shown}", self.console.join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The size of the window, in CSS pixels, and whether the theme is dark.
    pub(crate) fn look(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Gives a control a value, as a person does who moves or types; `event` is what it tells then, `input` or `change`.
    #[track_caller]
    pub(crate) fn enter(&mut self, id: &str, value: &str, event: &str) {
        self.get(&format!(
            "{{ const control = document.getElementById('{id}'); control.value = '{value}'; \
             control.dispatchEvent(new Event('{event}')); }}"
        ));
    }

    /// Gives an input of the page a file, as a person does who chooses it.
    pub(crate) fn choose_file(&mut self, id: &str, file: &Path) {
        let object = self.call("Runtime.evaluate", json!({ "expression": format!("document.getElementById('{id}')") }));
        let params = json!({ "files": [text(file)], "objectId": object["result"]["objectId"] });
        self.call("DOM.setFileInputFiles", params);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}
