//! The server as its clients meet it, with an engine that is no model.

mod answers;
mod engine;
mod limits;
mod refusals;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{BearerToken, ServeOptions, ServedModel, Server, ToolForm};
use crate::chat_template::ChatTemplate;
use crate::error::Result;
use crate::tokenizer::Tokenizer;
use engine::{Parrot, Watch};

/// A template whose text is all of a message and the role of the next one.
const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'poet' %}{{ raise_exception('No poets') }}{% endif %}\
    [{{ m.role }}]{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% endfor %}\
    {% if tools %}{{ tools | tojson }}{% endif %}{{ mood }}[assistant]";

/// How a test wants its server.
struct Setup {
    slots: usize,
    queue: usize,
    step_time: Duration,
    time_limit: Duration,
    drain_time: Duration,
    token: Option<&'static str>,
    template: Option<&'static str>,
    truncate_prompt: bool,
    header_time: Duration,
    write_time: Duration,
    connections: usize,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            slots: 4,
            queue: 64,
            step_time: Duration::from_micros(200),
            time_limit: Duration::from_secs(60),
            drain_time: Duration::from_secs(60),
            token: None,
            template: Some(TEMPLATE),
            truncate_prompt: false,
            header_time: Duration::from_secs(60),
            write_time: Duration::from_secs(60),
            connections: 1000,
        }
    }
}

/// A server on a port of this machine, until it is dropped.
struct Running {
    base: String,
    watch: Arc<Watch>,
    agent: ureq::Agent,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<std::thread::JoinHandle<Result<()>>>,
}

/// The answer to a request.
struct Answer {
    status: u16,
    retry_after: Option<String>,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {}", self.text))
    }

    /// The objects of a stream, whose end is marked.
    fn events(&self) -> Vec<Value> {
        let mut events: Vec<&str> = self.text.split_terminator("\n\n").collect();
        assert_eq!(events.pop(), Some("data: [DONE]"), "{}", self.text);
        let parse = |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
        events.into_iter().map(parse).collect()
    }
}

impl Setup {
    fn start(self) -> Running {
        let watch = Arc::new(Watch::default());
        let engine = Parrot::new(self.slots, self.step_time, &watch);
        let template = self.template.map(|source| Arc::new(ChatTemplate::new(source, Vec::new()).unwrap()));
        let model = ServedModel {
            name: "parrot".to_owned(),
            tokenizer: Arc::new(Tokenizer::Byte),
            template,
            begins_with: None,
            sampling: crate::engine::Sampling::default(),
            tool_form: Some(ToolForm::Hermes),
            truncate_prompt: self.truncate_prompt,
            stop_tokens: vec![256],
            vocab_size: 257,
            max_context: 1000,
            created: 7,
        };
        let options = ServeOptions {
            address: "127.0.0.1:0".parse().unwrap(),
            token: self.token.map(|token| BearerToken::new(token).unwrap()),
            queue: self.queue,
            time_limit: self.time_limit,
            connections: self.connections,
            header_time: self.header_time,
            write_time: self.write_time,
            body_time: Duration::from_secs(2),
            most_body_bytes: 10_000,
            drain_time: self.drain_time,
        };
        let (stop, stopped) = oneshot::channel();
        let (address, addressed) = std::sync::mpsc::channel();
        let ended = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::bind(options).await?;
                address.send(server.address()?).unwrap();
                server.run(model, engine, async { _ = stopped.await }).await
            })
        });
        let base = format!("http://{}", addressed.recv().unwrap());
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        Running { base, watch, agent, stop: Some(stop), ended: Some(ended) }
    }
}

impl Running {
    fn get(&self, path: &str) -> Answer {
        answer(self.agent.get(format!("{}{path}", self.base)).call())
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, &body.to_string())
    }

    fn post_text(&self, path: &str, body: &str) -> Answer {
        answer(self.agent.post(format!("{}{path}", self.base)).content_type("application/json").send(body))
    }

    fn complete(&self, body: Value) -> Answer {
        self.post("/v1/completions", &body)
    }

    fn chat(&self, body: Value) -> Answer {
        self.post("/v1/chat/completions", &body)
    }

    /// Stops the server and waits until it has ended.
    fn end(&mut self) -> Result<()> {
        drop(self.stop.take());
        self.ended.take().expect("it ends once").join().expect("it does not panic")
    }

    fn busy(&self) -> usize {
        self.watch.busy.load(Ordering::SeqCst)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_some() {
            _ = self.end();
        }
    }
}

fn answer(response: std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut response = response.unwrap();
    let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    let text = response.body_mut().read_to_string().unwrap();
    Answer { status: response.status().as_u16(), retry_after, text }
}

/// Waits until something is so, which no test asserts to be soon.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "never {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn user(content: &str) -> Value {
    json!([{ "role": "user", "content": content }])
}
