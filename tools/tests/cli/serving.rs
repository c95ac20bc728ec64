//! `lmc serve` as a process: what it refuses to start with, answers, and its end.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{Folder, has};

#[test]
fn what_cannot_be_served_is_refused() {
    let folder = Folder::new();
    folder.write("empty/x", "");
    folder.write("blank", " \n");
    folder.write("broken.jinja", "{% for %}");
    for (args, expected) in [
        (&["nowhere"][..], "nowhere is not there"),
        (&["empty"], "empty is no folder of a model"),
        (&["empty", "--host", "0.0.0.0"], "there is no bearer token to ask for"),
        (&["empty", "--token-file", "none"], "cannot read the bearer token none"),
        (&["empty", "--token-file", "blank"], "the bearer token is empty"),
        (&["empty", "--chat-template", "none"], "cannot read the chat template none"),
        (&["empty", "--chat-template", "broken.jinja"], "is broken: line 1"),
        (&["empty", "--host", "192.0.2.1", "--token-file", "broken.jinja"], "the bearer token has characters"),
        (&["empty", "--slots", "0"], "0 is not in 1..=1024"),
    ] {
        let ran = folder.lmc(&[&["serve", "--port", "0"], args].concat());
        assert_eq!(ran.code, 2, "{args:?}\n{}", ran.stderr);
        has(&ran.stderr, &[expected]);
    }
}

#[test]
fn a_run_is_served_until_sigterm() {
    let folder = Folder::new();
    folder.ok(&["train", "run.toml"]);
    folder.write("token", "s3cret\n");
    folder.write("chat.jinja", "{{ messages[0].content }}");
    let args =
        ["serve", "run", "--port", "0", "--slots", "2", "--token-file", "token", "--chat-template", "chat.jinja"];
    let mut child = folder.command(&args).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
    let line = lines.find(|line| line.starts_with("serving run at http://")).expect("it says where it serves");
    let base = line.split_whitespace().nth(3).expect("an address").trim_end_matches(':').to_owned();
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let post = |path: &str, body: Value| -> (u16, Value) {
        let request = agent.post(format!("{base}{path}")).header("Authorization", "Bearer s3cret");
        let mut response = request.send_json(body).expect("an answer");
        (response.status().as_u16(), response.body_mut().read_json().expect("JSON"))
    };
    let complete = |more: Value| {
        let mut body = json!({ "model": "run", "prompt": "ma", "max_tokens": 5, "seed": 3 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        post("/v1/completions", body)
    };
    let (status, one) = complete(json!({}));
    assert_eq!(status, 200, "{one}");
    // The same seed, in a batch.
    let (_, both) = complete(json!({ "n": 3 }));
    let texts: Vec<&Value> = both["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!((texts.len(), texts[0]), (3, &one["choices"][0]["text"]));
    assert_eq!(one["usage"]["prompt_tokens"], 3, "the document end and two letters");
    let (status, chat) = post("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "ma" }] }));
    assert_eq!(status, 200, "{chat}");
    let (status, vectors) = post("/v1/embeddings", json!({ "input": "ma" }));
    assert_eq!((status, vectors["data"][0]["embedding"].as_array().map(Vec::len)), (200, Some(8)), "{vectors}");
    let (status, error) = complete(json!({ "prompt": "maRIA" }));
    assert_eq!((status, &error["error"]["param"]), (400, &json!("prompt")), "{error}");
    assert_eq!(agent.get(format!("{base}/v1/models")).call().unwrap().status().as_u16(), 401);
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().expect("it is a child").code(), Some(0), "{rest:?}");
    has(&rest.join("\n"), &["all requests are answered"]);
}
